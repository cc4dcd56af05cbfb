import type { HpcsError } from '../../src/errors.ts';
import type { ExecOptions, RemoteProcess } from '../../src/site/transport.ts';
import { LocalTransport } from './local-transport.ts';

/** Why a command fails, and whether it was done all the same. */
export interface Fate {
  error: HpcsError;
  done?: boolean;
}

/** Whether a command gives an upload its name. */
export function isRename(script: string): boolean {
  return script.includes('sync -- "${path%/*}/"');
}

/** A site that is this machine, and a way there that fails. */
export class FailingTransport extends LocalTransport {
  /** All that were asked for. */
  readonly commands: { script: string; signal: AbortSignal | undefined }[] = [];
  readonly #fate: (script: string) => Fate | undefined;

  /** @param fate asked before every command; one without a fate is run */
  constructor(fate: (script: string) => Fate | undefined) {
    super();
    this.#fate = fate;
  }

  override exec(script: string, options: ExecOptions = {}): RemoteProcess {
    this.commands.push({ script, signal: options.signal });
    const fate = this.#fate(script);
    if (fate === undefined) return super.exec(script, options);
    const done = fate.done === true ? super.exec(script, options) : undefined;
    const failed = (async () => {
      await done?.finished;
      throw fate.error;
    })();
    failed.catch(() => undefined);
    return {
      // eslint-disable-next-line require-yield
      stdout: (async function* () {
        await failed;
      })(),
      finished: failed,
      async [Symbol.asyncDispose]() {},
    };
  }
}
