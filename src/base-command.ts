import { Command, Flags } from '@oclif/core';
import type { Config } from './config.ts';
import { HpcsError } from './errors.ts';
import { Meter } from './meter.ts';
import { parseRate } from './rate.ts';
import { sealFormats, type SealFormat } from './seal/format.ts';
import { describeRecipient, readRecipients, type Recipient } from './seal/recipients.ts';
import { asHpcsError, jsonText, printable, reportError } from './report.ts';
import { outputLost } from './standard-output.ts';
import { parseUntil } from './until.ts';

/**
 * What every command shares: `--json`, one abort signal for Ctrl-C and its kin, one form of error.
 *
 * Results go to standard output; progress and warnings go to standard error.
 */
export abstract class BaseCommand extends Command {
  static override enableJsonFlag = true;

  readonly #abort = new AbortController();
  /** The one that may have a line on the terminal. */
  #meter: Meter | undefined;

  /** Aborted by the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once. */
  protected get signal(): AbortSignal {
    return this.#abort.signal;
  }

  protected override async init(): Promise<void> {
    await super.init();
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, this.#interrupt);
  }

  readonly #interrupt = (): void => {
    if (this.#abort.signal.aborted) process.exit(130);
    this.#meter?.clear();
    process.stderr.write('hpcs: interrupted, cleaning up (again to stop at once)\n');
    this.#abort.abort(new HpcsError('interrupted', 'interrupted', 'interrupted'));
  };

  /** What is being done now, on standard error: a line, or with `--json` a record `{"stage": …}`. */
  protected progress = (message: string): void => this.#tell('stage', message);

  /** Progress of a stream of bytes, on standard error; with `--json` records `{"progress": …}`. */
  protected meter = (label: string): Meter => {
    this.#meter = new Meter({
      label,
      reader: this.jsonEnabled() ? 'program' : process.stderr.isTTY ? 'terminal' : 'log',
      write: (text) => void process.stderr.write(text),
    });
    return this.#meter;
  };

  /** A warning, on standard error: a line, or with `--json` a record `{"warning": …}`. */
  protected warning = (message: string): void =>
    this.jsonEnabled() ? this.#tell('warning', message) : this.#tell('warning', `warning: ${message}`);

  #tell(kind: 'stage' | 'warning', message: string): void {
    this.#meter?.clear();
    process.stderr.write(`${this.jsonEnabled() ? jsonText({ [kind]: message }) : printable(message)}\n`);
  }

  // What a site or a server said may stand in any line.
  override log(message = ''): void {
    super.log(printable(message));
  }

  override logJson(json: unknown): void {
    process.stdout.write(`${jsonText(json, 2)}\n`);
  }

  /** The recipients of the configuration and the command line, checked before anything starts, and shown. @throws HpcsError */
  protected async recipients(config: Config, flags: { recipient: string[]; format: SealFormat }): Promise<Recipient[]> {
    const found = await readRecipients([...config.client.recipient, ...flags.recipient], flags.format);
    for (const recipient of found) {
      this.progress(`recipient: ${describeRecipient(recipient)}`);
      if (flags.format === 'openpgp' && !recipient.opensAead) {
        this.warning(
          `the programs of ${describeRecipient(recipient)} may not open this format: hpcs open does, with its secret key`,
        );
      }
    }
    return found;
  }

  protected override async catch(error: Error): Promise<void> {
    // Told with what other commands meet at their end.
    if (error === outputLost.reason) throw error;
    const interrupted = this.signal.aborted && this.signal.reason instanceof HpcsError && !(error instanceof HpcsError);
    const command = `${this.config.bin} ${(this.id ?? '').replaceAll(':', ' ')}`;
    reportError(asHpcsError(interrupted ? this.signal.reason : error, command), { json: this.jsonEnabled() });
  }

  protected override async finally(failure: Error | undefined): Promise<void> {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(name, this.#interrupt);
    await super.finally(failure);
  }
}

/** The flag of commands that seal. */
export const recipientFlag = Flags.string({
  summary: 'who can open it too: age1…, or a file with an OpenPGP certificate (may be repeated)',
  helpValue: 'RECIPIENT',
  multiple: true,
  default: [],
});

/** The flag that every command with a configuration has. */
export const configFlag = Flags.string({
  summary: 'configuration file (default: HPCS_CONFIG, ./hpcs-client.conf, XDG, /tmp/hpcs-client.conf)',
  helpValue: 'FILE',
});

/** The argument that names an artefact of the caller's. */
export const artefactArg = {
  description: 'path of its info record on the site, or client_<id>/<secret>',
  ignoreStdin: true,
} as const;

/** Flags of commands that grant: what must hold beside, checked when a job is submitted and when it gets its keys. */
export const conditionFlags = {
  'grant-image': Flags.string({
    summary: 'only jobs with this sealed image: its SHA-512, or the path of its info record on the site',
    helpValue: 'SHA512|PATH[#sha512:…]',
  }),
  ...durationFlags(),
};

/** Those of them that images can be granted with, too. */
export function durationFlags() {
  return {
    'grant-until': Flags.custom({
      summary: 'only until then: 30d, 12h, 2w from now, a date, or a time (RFC 3339)',
      helpValue: 'TIME',
      parse: async (value) => parseUntil(value),
    })(),
    'grant-jobs': Flags.integer({ summary: 'only for so many jobs, of all named together', helpValue: 'N', min: 1, max: 1000 }),
  };
}

/** The flag of commands that publish: how the sealed file is called on the site. */
export const dataPathFlag = Flags.string({ summary: 'name of the sealed file (its directory is not used)', helpValue: 'FILE' });

/** Flags of commands that publish: as whom, for whom and for which nodes. */
export const publishFlags = {
  username: Flags.string({ summary: 'user name on the site (default: as configured)', helpValue: 'NAME' }),
  users: Flags.string({
    char: 'u',
    summary: 'clients whose jobs may use it, by name or id (agent mode: users on the nodes)',
    helpValue: 'A,B',
  }),
  groups: Flags.string({ char: 'g', summary: 'groups of clients (agent mode: groups on the nodes)', helpValue: 'A,B' }),
  'compute-nodes': Flags.string({
    char: 'c',
    summary: 'nodes to run on (agent mode: required for a grant, and nowhere else)',
    helpValue: 'A,B',
  }),
} as const;

/** The flag of commands that publish: the format of what they publish. */
export const formatFlag = Flags.option({
  options: sealFormats,
  summary: 'format of the sealed file',
  default: 'openpgp' as SealFormat,
})();

/** The flag that bounds an upload's rate. */
export const bandwidthFlag = Flags.custom<number>({
  summary: 'upload at most this many bytes a second, for example 20M (default: as configured, else no limit)',
  helpValue: 'RATE',
  parse: async (value) => parseRate(value),
})();
