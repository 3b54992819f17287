"""The list of vLLM's classes says one thing of each."""

from vlora.export.vllm_classes import LANGUAGE, STACKED, TOWERS, WITHOUT_LORA


def test_each_architecture_is_in_one_list() -> None:
    """GLM-OCR has its LoRA from its base class; the classes of MiniMax-M3 and Kimi-K3 have none."""
    assert len(LANGUAGE | TOWERS | WITHOUT_LORA) == len(LANGUAGE) + len(TOWERS) + len(WITHOUT_LORA)
    assert {"Qwen3VLForConditionalGeneration", "GlmOcrForConditionalGeneration"} <= TOWERS
    assert "MuseGlimmerForConditionalGeneration" in LANGUAGE
    assert {"MiniMaxM3SparseForConditionalGeneration", "KimiK3ForConditionalGeneration"} <= WITHOUT_LORA
    assert {"Qwen3VLMoeForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"} <= STACKED <= LANGUAGE | TOWERS
