"""An AWS of our own, inside a lab: moto's server, which says what machines it was asked for.

Run by test_aws.py on the lab's own machine: ``python moto_cloud.py HOST PORT REGION PUBLIC_KEY`` serves the API, prints
each change of its instances as a line of JSON, and ends the instances named on stdin.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import boto3
from moto.ec2.responses.instances import InstanceResponse
from moto.server import ThreadedMotoServer

POLL_SECONDS = 0.5


def main(host: str, port: int, region: str, public_key: Path) -> None:
    """Serve until stdin ends."""
    responses: Any = InstanceResponse
    gives_fewest = responses.run_instances

    def gives_most(request: Any) -> Any:
        """Give as many machines as were asked for, as AWS does where it can; moto gives the fewest allowed."""
        request.params["MinCount"] = request.params["MaxCount"]
        return gives_fewest(request)

    responses.run_instances = gives_most
    server = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
    server.start()
    ec2 = boto3.client("ec2", region_name=region)
    ec2.import_key_pair(KeyName="lab", PublicKeyMaterial=public_key.read_bytes())
    threading.Thread(target=_end_instances, args=(ec2,), daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    known: dict[str, str] = {}
    while threading.main_thread().is_alive():
        for reservation in ec2.describe_instances()["Reservations"]:
            for instance in reservation["Instances"]:
                name, state = instance["InstanceId"], instance["State"]["Name"]
                if known.get(name) != state:
                    known[name] = state
                    shown = {key: instance.get(key) for key in ("InstanceId", "PrivateIpAddress", "InstanceType")}
                    spot = instance.get("InstanceLifecycle") == "spot"
                    print(json.dumps({**shown, "state": state, "spot": spot}), flush=True)
        time.sleep(POLL_SECONDS)


def _end_instances(ec2: Any) -> None:
    for line in sys.stdin:
        ec2.terminate_instances(InstanceIds=[line.strip()])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
