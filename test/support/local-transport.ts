import { spawn } from 'node:child_process';
import { pipeline } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { ExecOptions, RemoteProcess, Transport } from '../../src/site/transport.ts';

/** A site that is this machine: for the shell text that is sent to a site, where the way there does not matter. */
export class LocalTransport implements Transport {
  exec(script: string, options: ExecOptions = {}): RemoteProcess {
    const child = spawn('/bin/sh', ['-c', script], { stdio: ['pipe', 'pipe', 'pipe'], signal: options.signal });
    // A command that ends before its input does is told by its exit code.
    pipeline(options.input ?? [], child.stdin, () => undefined);
    const stderr = text(child.stderr);
    const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
    const finished = Promise.all([ended, stderr]).then(([code, said]) => ({ code, stderr: said }));
    // Looked at once the output was read.
    finished.catch(() => undefined);
    return {
      stdout: child.stdout,
      finished,
      async [Symbol.asyncDispose]() {
        child.kill();
        await finished.catch(() => {});
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
