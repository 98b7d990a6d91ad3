// An acceptor of resume commands without dependencies, and a runner of the conformance cases through it.
// node acceptor.mjs omium/conformance/acceptor.json FOLDER: one line on stdout; exit code 1 where a case goes wrong.

import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { argv, exit } from "node:process";

const [casesFile, folder] = argv.slice(2);

const compare = (a, b) => a.offset - b.offset || a.attempt - b.attempt;

class Acceptor {
  constructor(file) {
    this.file = file;
    this.fences = new Map(existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : []);
  }

  // The whole of it runs in one turn of the event loop, in one process: that makes it a compare-and-set here.
  accept({ commandId, recoveryId, failureId, execution, fence, expiresAtMs }, nowMs, current) {
    const held = this.fences.get(execution);
    if (held) {
      if (commandId === held.commandId) return "duplicate";
      if (compare(fence, held.fence) <= 0) return "stale";
      if (held.finished && recoveryId === held.recoveryId) return "finished";
    }
    if (current && !current.includes(failureId)) return "not_current";
    if (nowMs >= expiresAtMs) return "expired";
    this.keep(execution, { fence, commandId, recoveryId, finished: false });
    return "accepted";
  }

  finish(execution, commandId) {
    const held = this.fences.get(execution);
    if (held?.commandId === commandId) this.keep(execution, { ...held, finished: true });
  }

  keep(execution, held) {
    this.fences.set(execution, held);
    writeFileSync(`${this.file}.new`, JSON.stringify([...this.fences]), { flush: true });
    renameSync(`${this.file}.new`, this.file);
  }
}

const read = (deliver) => ({
  commandId: deliver.command_id,
  recoveryId: deliver.recovery_id,
  failureId: deliver.failure_id,
  execution: deliver.execution,
  fence: deliver.fence,
  expiresAtMs: deliver.expires_at_ms,
});

function wrong({ steps }, file) {
  let acceptor = new Acceptor(file);
  const executions = new Map();
  for (const step of steps) {
    if (step.restart) acceptor = new Acceptor(file);
    else if (step.finish) acceptor.finish(executions.get(step.finish), step.finish);
    else {
      const command = read(step.deliver);
      executions.set(command.commandId, command.execution);
      const answer = acceptor.accept(command, step.now_ms, step.current);
      if (answer !== step.expect) return `${command.commandId} is ${answer}, not ${step.expect}`;
    }
  }
  return null;
}

const { cases } = JSON.parse(readFileSync(casesFile, "utf8"));
let count = 0;
for (const [number, each] of cases.entries()) {
  const file = join(folder, `fences-${number}.json`);
  rmSync(file, { force: true });
  const problem = wrong(each, file);
  if (problem) console.error(`${each.name}: ${problem}`);
  count += problem ? 1 : 0;
}
console.log(`${cases.length} cases, ${count} wrong`);
exit(count ? 1 : 0);
