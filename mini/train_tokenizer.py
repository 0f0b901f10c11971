"""Trains the embedded base's tokenizer: byte-level BPE, 4,096 tokens, Mistral's special tokens and 16 reserved ones.

Run `python mini/train_tokenizer.py [FOLDER]`; writes tokenizer files into the package folder, or FOLDER. Takes a second on a CPU.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from corpus import chat, documents, read_terms
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PACKAGE = Path(__file__).parent.parent / "src" / "onecard" / "weights" / "embedded" / "mini"
VOCABULARY = 4096
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<reserved_{number}>" for number in range(16))]

# System text, which small bases were not trained on, is put in front of the first user turn, as Mistral's own template does.
CHAT_TEMPLATE = (
    "{{- bos_token }}{%- set ns = namespace(system='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] + ' ' %}"
    "{%- elif message['role'] == 'user' %}{{- '[INST] ' + ns.system + message['content'] + ' [/INST]' }}{%- set ns.system = '' %}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token }}"
    "{%- else %}{{- raise_exception('only system, user and assistant turns are known') }}{%- endif %}{%- endfor %}"
)


def train() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = list(documents(read_terms(), random.Random(1)))
    for mark in SPECIAL[:5]:
        texts = [text.replace(mark, "") for text in texts]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    tokenizer = train()
    turn = [{"role": "user", "content": "What is a mutex?"}]
    answered = [*turn, {"role": "assistant", "content": "A lock."}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == chat("What is a mutex?", "A lock.")
    asked = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert chat("What is a mutex?", "A lock.").startswith(asked)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    words = [word for term in read_terms() for word in term.long.split()]
    tokens = sum(len(tokenizer(term.long, add_special_tokens=False).input_ids) for term in read_terms())
    print(f"{len(tokenizer)} tokens, {tokens / len(words):.2f} tokens a word, written to {folder}")


if __name__ == "__main__":
    main()
