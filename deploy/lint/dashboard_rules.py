"""Prints the dashboard's queries as recording rules, so that promtool can say whether each is one."""

import json
import re
import sys
from pathlib import Path

dashboard = json.loads((Path(__file__).resolve().parent.parent / "grafana/mcpgate.json").read_text())
rules = []
for panel in dashboard["panels"]:
    for target in panel.get("targets", []):
        query = target["expr"].replace("$__rate_interval", "5m")
        query = re.sub(r"\$(\w+)", ".*", query)
        rules.append({"record": f"panel:{panel['id']}:{target['refId']}", "expr": query})
# JSON is YAML.
json.dump({"groups": [{"name": dashboard["title"], "rules": rules}]}, sys.stdout)
