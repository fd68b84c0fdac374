"""The heads of TIME's temporal tasks: which frame is this, and where did this patch move?"""

import torch.nn.functional as F
from torch import Tensor, nn

NUM_DIRECTIONS = 9  # none, and eight of 45 degrees each


class TemporalHeads(nn.Module):
    """Heads on the patches of any backbone; those that are not asked for do not exist.

    Names of parameters are TIME's: `temp_head` for the order, `mlp_q`, `mlp_k`, `mlp_v`, `mlp_proj`, `mlp_norm` and
    `flow_head` for the flow.

    Args:
        embed_dim: width D of the patches.
        num_steps: the most steps in time that are told apart.
        order, flow: which heads there are.
    """

    def __init__(self, embed_dim: int, num_steps: int, *, order: bool = True, flow: bool = True) -> None:
        super().__init__()
        if order:
            self.temp_head = nn.Linear(embed_dim, num_steps)
        if flow:
            self.mlp_q = nn.Linear(embed_dim, embed_dim)
            self.mlp_k = nn.Linear(embed_dim, embed_dim)
            self.mlp_v = nn.Linear(embed_dim, embed_dim)
            self.mlp_proj = nn.Linear(embed_dim, embed_dim)
            self.mlp_norm = nn.LayerNorm(embed_dim, eps=1e-6)
            self.flow_head = nn.Linear(embed_dim, NUM_DIRECTIONS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def order(self, patches: Tensor) -> Tensor:
        """Which step in time each step of patches (B, T, N, D) is: logits (B, T, T).

        Raises:
            ValueError: there are more steps than `num_steps`.
        """
        steps = patches.shape[1]
        if steps > self.temp_head.out_features:
            raise ValueError(
                f"the order head tells {self.temp_head.out_features} steps apart, the network makes {steps} of a clip; "
                "build the network with that num_frames, or show it shorter clips"
            )
        return self.temp_head(patches.mean(dim=2))[..., :steps]

    def flow(self, patches: Tensor) -> Tensor:
        """Where each patch of a later step has moved, from what it finds in the step before: logits (B, T-1, N, 9)."""
        before, after = patches[:, :-1], patches[:, 1:]  # (B, T-1, N, D)
        found = F.scaled_dot_product_attention(self.mlp_q(after), self.mlp_k(before), self.mlp_v(before))
        return self.flow_head(self.mlp_norm(self.mlp_proj(found)))
