# SPDX-License-Identifier: Apache-2.0
"""filter.py HEADER OPTIONS.md: HEADER as Doxygen is to read it, on standard output. Where the code says a thing once, the
reference repeats it: the head of a file is the text of its page, and of a policy in it that has no comment of its own, or a type of the file's name; members
that a contract asks for are described by the contract; fields of TrainConfig and LoraConfig without a comment by the option of
their name. Standard library only."""
import os
import re
import sys

CONTRACT = {  # members that every policy of a kind has: what they are, and where that is written
    "needs": "What it needs of a batch, see @ref kto::DeclaresNeeds.",
    "provides": "What its batches hold, see @ref kto::DeclaresProvides.",
    "name": "Its value of `--loss_type`, see @ref kto::NamesItself.",
    "paper": "For model cards, see @ref kto::LossPaper.",
    "options": "Its flags on a command line, see @ref kto::ListsOptions.",
    "beta": "How strongly the policy is held to the reference, above 0.",
    "observe": "See @ref kto::Observes.",
    "num_tokens": "Tokens of a row in a batch, see @ref kto::CountsTokens.",
    "log_probs": "Log-probs of the batch's completions in nats, see @ref kto::GivesReferenceLogps.",
    "follow": "Moves the reference after an update, see @ref kto::FollowsPolicy.",
    "visit_models": "Calls visit(model) for each model that it holds, see @ref kto::ListsModels.",
    "visit_state": "Lists what a checkpoint keeps of it: archive(name, member) for each.",
    "is_frozen": "See @ref kto::SaysFrozen.",
    "fixes_kl_pairs": "See @ref kto::FixesKlPairs.",
    "named_parameters": "The live parameters by name, see @ref kto::HasParameters.",
    "frozen_copy": "A copy without gradient, for live_reference.",
    "prepare": "See @ref kto::OptimizerPolicy.",
    "step": "One update, see @ref kto::OptimizerPolicy.",
    "operator==": "Whether all members are equal.",
}
CALLS = {"collate/": "A batch of `picks`, see @ref kto::MakesBatches.", "loss/": "Loss and reward of each row, see @ref kto::MapsInputToTerms."}



def plain(text):
    """Markdown in which -- is no dash."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(?<![\w\\-])--(?=\w)", r"\\--", part) for part in parts[::2]]
    return "`".join(parts)


path, options = sys.argv[1:3]
text = open(path, encoding="utf-8").read()
if path.endswith(".hpp"):  # each of several members declared in one line has the line's comment, as none of them has in Doxygen 1.9
    text = re.sub(r"(?m)((?:^ +///(?!<).*\n)*)^( +)([\w:]+(?:<[\w:]+>)?) (\w+(?: = [^,;(){}]+)?(?:,\s+\w+(?: = [^,;(){}]+)?)+);( +///<.*)?$",
                  lambda m: "\n".join(f"{m[1]}{m[2]}{m[3]} {name};{m[5] or ''}" for name in re.split(r",\s+", m[4])) if m[1] or m[5] else m[0], text)
lines = text.split("\n")
if path.endswith(".md"):
    print(*(line if line.startswith("    ") else plain(line) for line in lines), sep="\n")
    sys.exit()
end = next(i for i, line in enumerate(lines) if not line.startswith("//"))
head, is_formula = [], False
for line in [line[3:] for line in lines[1:end]]:
    if line.startswith("  ") != is_formula:
        head.append("@endverbatim" if is_formula else "@verbatim")
        is_formula = not is_formula
    head.append(line)
if is_formula:
    head.append("@endverbatim")
meanings = {}
for row in open(options, encoding="utf-8"):
    if match := re.match(r"\| `(\w+)` \|[^|]*\|[^|]*\| (.*) \|$", row):
        meanings[match[1]] = meanings[match[1].removeprefix("lora_")] = plain(match[2])


def opens_template(line):
    return re.match(r"\s*(template|requires)\b", line)


def is_documented(i):
    while opens_template(lines[i - 1]):
        i -= 1
    return "///" in lines[i] or lines[i - 1].lstrip().startswith("///")


comments = {}  # line number: the lines of its comment


def document(i, text):
    """Puts `text` before what line i declares, its template head included."""
    while opens_template(lines[i - 1]):
        i -= 1
    comments[i] = text


struct, in_detail = "", False
for i, line in enumerate(lines):
    in_detail = line == "namespace detail {" or (in_detail and line != "}  // namespace detail")
    if (match := re.match(r"concept (\w+)", line)) and not in_detail and not is_documented(i):
        document(i, [f"@ref {match[1]}_has_no_comment"])  # Doxygen 1.9 warns of none, but of a name that it does not know
    elif match := re.match(r"(?:struct|class|enum class) (\w+)[^;]*$", line):
        struct = match[1]
        is_policy = any(f"/kto/{room}/" in path for room in ("loss", "collate", "reference"))
        if not is_documented(i) and (is_policy or struct.lower() == os.path.basename(path)[:-4].replace("_", "")):
            document(i, head)
    elif re.match(r"  [a-zA-Z]", line) and not is_documented(i) and not opens_template(line) and not line.startswith("  return"):
        declared = re.search(r"(operator(?:==|\(\))|\w+)\s*(?:[({=;\[]|$)", line)
        name = declared[1] if declared else ""
        if name == "operator()":
            document(i, [next((text for room, text in CALLS.items() if f"/kto/{room}" in path), "")])
        elif name in CONTRACT:
            document(i, [CONTRACT[name]])
        elif struct in ("TrainConfig", "LoraConfig") and name in meanings:
            document(i, [meanings[name]])



def comment(texts):
    print("/**", *(text.replace("*/", "* /") for text in texts), "*/", sep="\n")


in_code = False  # lines of a comment that are indented are code
for i, line in enumerate(lines):
    if i == 0:
        comment(["@file", *head])
        continue
    if i < end:
        continue
    if bool(re.match(r"\s*///  ", line)) != in_code and (in_code or re.match(r"\s*///", line)):
        print("///", "@endcode" if in_code else "@code")
        in_code = not in_code
    if i in comments:
        comment(comments[i])
    print(line)
if path.endswith("/kto.hpp") and not path.endswith("/loss/kto.hpp"):
    for space, holds in {"kto": "All of the library.", "kto::hub": "The model hub: names, cache, downloads and pushes.", "kto::cli":
                         "Command lines of training programs.", "kto::http": "Requests to servers, which the hub and MLflow are."}.items():
        print(f"/// @namespace {space}\n/// {holds}")
