"""The wire contract: records, their committed Avro schemas, topics and the codec. Imports nothing of ours."""
