"""The rows of weights that we trained. Their files are in the package."""

from .sources import PackageFile
from .weights import ClipSpec, Number, Weights

_SOURCE = "`OMP_NUM_THREADS=1 svt-zoo demo --seed 0`, 97 to 100; untrained 63.3, one frame 25.8, chance 25"


class SVT_ViTT_Weights:
    """A tiny SVT that needs no download: the network of `svt-zoo demo`, for tests, tutorials and offline use."""

    MOTION = Weights(
        name="svt_tiny_motion",
        model="svt_vitt",
        source=PackageFile("svt_tiny_motion.safetensors"),
        sha256="68656cc7253c2e3f8fed677892f87b34a11ce5f9c344cd69b28fe3af8f83c7f0",
        clip=ClipSpec(8, 32, 27, 24, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        title="SVT ViT-T/8 of 2 blocks, self-supervised on generated videos of a moving light",
        paper="https://arxiv.org/abs/2112.01514",
        license="Apache-2.0",
        pretrained_on="320 generated videos (svt_zoo/demo/synthetic.py), no labels",
        model_kwargs={
            "img_size": 24,
            "patch_size": 8,
            "embed_dim": 64,
            "depth": 2,
            "num_heads": 2,
            "drop_path_rate": 0.0,
        },
        measured=(Number("the demo's 120 unseen videos", "kNN 10", "top-1", 100.0, _SOURCE),),
        notes="Ours. It knows generated videos of 24 pixels in which a light moves along one of four lines. It knows "
        "nothing else, and is no feature extractor for real videos.",
    )
    DEFAULT = MOTION
