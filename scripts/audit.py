"""Known vulnerabilities of pinned packages, by pip-audit: `make audit`.

python scripts/audit.py constraints.txt

Exit code 1 where a pinned version has a known vulnerability. Where the list of vulnerabilities cannot be reached, it
gives the reason, and exits with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main(requirements: str) -> int:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--no-deps", "--disable-pip", "-r", requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.strip():
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"skipped: the list of vulnerabilities cannot be reached from here ({reason[:200]})")
        return 0
    packages = json.loads(done.stdout)["dependencies"]
    unknown = [package for package in packages if "skip_reason" in package]
    found = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    if len(unknown) == len(packages):
        print(f"skipped: the index has nothing to say of any package ({unknown[0]['skip_reason']})")
        return 0
    print(
        f"{len(packages) - len(unknown)} packages looked up, {len(unknown)} unknown to the index, {len(found)} findings"
    )
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
