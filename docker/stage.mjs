// Entry point of the stage images: `hpcs STAGE ARGUMENTS`, or any other command (`job results 4711`) where the first word names one.
// Started as root without a `user:`, as the original's compose files do, it becomes the owner of the mounted work directory first.
import { existsSync, statSync } from 'node:fs';

const [stage, ...words] = process.argv.slice(2);
const commands = new Set(['container-prep', 'data-prep', 'job-prep', 'job', 'open', 'doctor', 'help']);

if (process.getuid() === 0) {
  const owner = statSync(existsSync('/tmp/hpcs-client.conf') ? '/tmp/hpcs-client.conf' : '/tmp');
  if (owner.uid !== 0) {
    const socket = '/var/run/docker.sock';
    process.setgroups(stage === 'container-prep' && existsSync(socket) ? [statSync(socket).gid] : []);
    process.setgid(owner.gid);
    process.setuid(owner.uid);
  }
}
process.argv.splice(2, Infinity, ...(commands.has(words[0]) ? words : [stage, ...words]));
await import('../bin/dev.js');
