"""Families whose next token mlx-vlm 0.7.10 predicts otherwise when it generates, and why vlora does not follow it.

vlora trains what transformers, or the family's own publication, computes; a trained model that is asked through mlx-vlm
is then asked through something else, and whoever does so should know. A reason goes when mlx-vlm mends what it names:
`python -m tests.prove` demands that there is a difference as long as it stands here.
"""

from collections.abc import Mapping

_SIGLIP = "images are scaled by another width, and a tower's norm has another epsilon ({0}, {1})"
_GLM_TOWER = "positions are interpolated linearly, and the tower's norms have another epsilon ({0}/vision.py:126, {1})"
_GEMMA3N = (
    "a prompt's text is not scaled, its images are mirrored, the tower has another padding, activation and epsilon, "
    "and queries that share keys are rotated too far (gemma3n/gemma3n.py:122, vision.py:102, :572, :147, :198, "
    "language.py:139)"
)
_GEMMA4 = "images see themselves in full layers too, and beyond the window (gemma4/language.py:546)"
_GELU = "the tower's activation is approximated ({0})"

DIFFERENCES: Mapping[str, str] = {
    "deepseek_vl_v2": "halves are rotated against each other, where published ones rotate pairs (language.py:150)",
    "ernie4_5_moe_vl": "experts are told apart by token types in the forward only (ernie4_5_moe_vl.py:282)",
    "falcon_ocr": "only the first image's patches are placed (falcon_ocr/language.py:467)",
    "fastvlm": "every image after the first stands too late (fastvlm/fastvlm.py:134)",
    "gemma3": _SIGLIP.format("gemma3/gemma3.py:139", "gemma3/vision.py:87"),
    "gemma3n": _GEMMA3N,
    "gemma4_moe": _GEMMA4,
    "gemma4_unified": _GEMMA4,
    "glm4v": _GLM_TOWER.format("glm4v", ":233"),
    "glm4v_moe": _GLM_TOWER.format("glm4v_moe", ":232"),
    "granite4_vision": "only the first image is read (granite4_vision/granite4_vision.py:164)",
    "granite_vision": "a whole tile stands in the place of every image token (granite_vision/granite_vision.py:134)",
    "idefics2": "padding of images takes part, and positions are counted in wrong steps (idefics2/vision.py:196, :149)",
    "internvl": "the projector's activation is approximated (internvl/internvl.py:21)",
    "internvl_chat": _GELU.format("internvl_chat/vision.py:70"),
    "internvl_chat-qwen3": _GELU.format("internvl_chat/vision.py:70"),
    "jina_vlm": "a second image is taken for another row's (jina_vlm/jina_vlm.py:237)",
    "kimi_k25": "the tower has another activation, epsilon and positions (kimi_k25/vision.py:245, :258, :101)",
    "kimi_vl": "the tower has another activation, epsilon and positions (kimi_vl/vision.py:228, :241, kernels.py:166)",
    "llava_bunny": "it takes the first image only, and only one size of tower (llava_bunny/llava_bunny.py:137, :120)",
    "llava_next": "a whole tile stands in the place of every image token (llava_next/llava_next.py:118)",
    "mistral_large3": "embeddings, and with them images, are dropped (deepseek_v3/language.py:510)",
    "mllama": "text alone goes through the cross-attention layers, which the published model skips",
    "molmo2": "image tokens do not see later ones of their image (molmo2/language.py:175)",
    "molmo_point": "image tokens do not see later ones of their image (molmo_point/language.py:179)",
    "moondream2": "the image sees itself whole in the forward only (moondream2/moondream2.py:36)",
    "moondream3": "the image sees itself whole in the forward only (moondream3/moondream3.py:36)",
    "paligemma": _SIGLIP.format("paligemma/paligemma.py:97", "paligemma/vision.py:87"),
    "paligemma2": _SIGLIP.format("paligemma/paligemma.py:97", "paligemma/vision.py:87"),
    "phi4_siglip": "patches attend to the padding behind an image (phi4_siglip/vision.py:134)",
    "qwen3_omni_moe": "the tower's activation is exact, where it was trained approximated (vision.py:163)",
    "qwen3_vl_moe": "the tower's exact and approximated activations are exchanged (vision.py:109, :163)",
    "unlimited_ocr": "a row is all prompt there, and no answer that sees but a window of itself (language.py:12)",
}
