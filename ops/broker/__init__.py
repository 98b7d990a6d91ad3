"""A real Kafka without Docker: KRaft, one or three nodes, each a subprocess that can be killed.

with Broker(nodes=3) as broker:
    Producer({"bootstrap.servers": broker.bootstrap})
    broker.kill(2)
"""

from ops.broker.broker import Broker
from ops.broker.jars import BrokerError
from ops.broker.security import Security

__all__ = ["Broker", "BrokerError", "Security"]
