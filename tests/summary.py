# SPDX-License-Identifier: Apache-2.0
"""summary.py RESULTS.xml: prints what ctest skipped and why, then one line of counts. RESULTS.xml is from `ctest --output-junit`;
a test that was skipped, fully or partly, prints lines that begin with "skipped: ". Standard library only."""
import re
import sys
import xml.etree.ElementTree as xml

passed = failed = num_skipped = 0
skipped = {}  # {why: [names]}
for test in xml.parse(sys.argv[1]).getroot().iter("testcase"):
    name, status = test.get("name"), test.get("status")
    output = test.findtext("system-out") or ""
    # Catch wraps a long message: it ends at an empty line
    reasons = [" ".join(why.split()) for why in re.findall(r"^\s*skipped: ?(.*?)(?=\n\s*\n|\n\s*skipped:|\Z)", output, re.S | re.M)]
    whole = test.find("skipped") is not None and test.find("skipped").get("message").startswith("SKIP_")  # else it could not run
    for why in dict.fromkeys(reasons or ["for no reason that it gives"] * whole):
        skipped.setdefault(why, []).append(name if whole else f"part of {name}")
    num_skipped += whole
    passed += status == "run"
    failed += status != "run" and not whole
if skipped:
    print("\nSkipped:")
for why, names in sorted(skipped.items()):
    print(f"  {why}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
print(f"{passed} passed, {failed} failed" + (f", {num_skipped} skipped" if num_skipped else ""))
