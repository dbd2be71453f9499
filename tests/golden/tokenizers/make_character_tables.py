# SPDX-License-Identifier: Apache-2.0
"""Records the classes of characters that Hugging Face's tokenizers knows into the headers of include/kto/text/tokenizer.

    python make_character_tables.py          # rewrites character_tables.hpp and script_table.hpp; format them afterwards
    python make_character_tables.py check    # only says whether they are as recorded; exit status 1 if not

Needs tokenizers 0.23. The tables are asked of the library, not taken from a Unicode database: its parts were made with
different versions of Unicode (marks of Unicode 9, scripts of Unicode 9, white space of Rust's own), none of which is the
one of Python or of the system.
"""
import itertools
import pathlib
import re
import sys

from tokenizers import normalizers, pre_tokenizers

ROOM = pathlib.Path(__file__).resolve().parents[3] / "include/kto/text/tokenizer"


def code_points():
    return itertools.chain(range(0xD800), range(0xE000, 0x110000))


def ranges(is_member):
    out = []
    for c in code_points():
        if not is_member(chr(c)):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def script_runs():
    """(first code point, number) of each run. Scripts are numbered by their first character; 0 is none."""
    split = pre_tokenizers.UnicodeScripts()
    known, last = [], [0]  # a character of each script; the number of the last one

    def joins(one, other):
        return len(split.pre_tokenize_str(one + other)) == 1

    def number(c):
        if joins("!", c) and joins("A", c):
            return 0  # it belongs to the script before it, whatever that is
        if known and joins(known[last[0] - 1], c):
            return last[0]  # most often the same as before
        for i, other in enumerate(known):
            if joins(other, c):
                last[0] = i + 1
                return i + 1
        known.append(c)
        last[0] = len(known)
        return len(known)

    runs = []
    for c in map(chr, code_points()):
        script = number(c)
        if not runs or script != runs[-1][1]:
            runs.append((ord(c), script))
    return runs


def main():
    accents = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    cleaning = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    tables = {
        "character_tables.hpp": {
            "mark_ranges": ranges(lambda c: normalizers.StripAccents().normalize_str(c) == ""),
            "accent_ranges": ranges(lambda c: accents.normalize_str(c) == ""),
            "control_ranges": ranges(lambda c: cleaning.normalize_str(c) == ""),
        },
        "script_table.hpp": {"script_runs": script_runs()},
    }
    changed = False
    for file, arrays in tables.items():
        text = (ROOM / file).read_text(encoding="ascii")
        for name, rows in arrays.items():
            pattern = re.compile(r"(" + name + r"\[\] = \{).*?(\};)", re.S)
            found = [[int(n, 0) for n in row] for row in re.findall(r"\{(\w+), *(\w+)\}", pattern.search(text)[0])]
            recorded = [list(row) for row in rows]
            print(f"{name}: {len(found)} rows in the header, {len(recorded)} recorded, {'equal' if found == recorded else 'different'}")
            if found != recorded:
                changed = True
                if "-v" in sys.argv:
                    print([row for row in found if row not in recorded][:20], [row for row in recorded if row not in found][:20])
                shown = ", ".join("{0x%X, %s}" % (a, b if file.startswith("script") else "0x%X" % b) for a, b in recorded)
                text = pattern.sub(lambda match: match[1] + "\n" + shown + ",\n" + match[2], text)
        if sys.argv[1:2] != ["check"]:
            (ROOM / file).write_text(text, encoding="ascii")
    return changed and sys.argv[1:2] == ["check"]


if __name__ == "__main__":
    sys.exit(main())
