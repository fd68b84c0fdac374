"""The model code of a folder for transformers, for a network that transformers does not have.

`export_transformers` copies this file into the folder, beside copies of the network's modules.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

from ..models.timesformer import timesformer as build_backbone  # the exporter puts the network's own family here


class SvtZooConfig(PretrainedConfig):  # type: ignore[misc]
    """The config: `network` (keywords of the backbone), `num_frames` of the clip, and the labels."""

    model_type = "svt_zoo"


class SvtZooPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What both models share: the backbone."""

    config_class = SvtZooConfig
    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.backbone = build_backbone(**config.network)


class SvtZooModel(SvtZooPreTrainedModel):
    """The backbone: pixel_values (B, T, 3, H, W) -> `pooler_output` (B, D), `last_hidden_state` (B, T*N, D)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Any:
        """The class feature (B, D) as `pooler_output`, and those of the patches, frame by frame."""
        features = self.backbone(pixel_values.transpose(1, 2))
        return BaseModelOutputWithPooling(last_hidden_state=features.patches.flatten(1, 2), pooler_output=features.cls)


class SvtZooForVideoClassification(SvtZooPreTrainedModel):
    """The classifier: pixel_values (B, T, 3, H, W) -> `logits` (B, K)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.head = nn.Linear(self.backbone.cls_dim, config.num_labels)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        """The logits, and with `labels` (B,) the cross-entropy as `loss`."""
        logits = self.head(self.backbone(pixel_values.transpose(1, 2)).cls)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


# The pipeline logs an error for classes that are not listed here, although it runs them.
MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[SvtZooConfig.model_type] = SvtZooForVideoClassification.__name__
