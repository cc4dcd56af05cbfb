import { text } from 'node:stream/consumers';
import { readFile } from 'node:fs/promises';
import { Flags } from '@oclif/core';
import { BaseCommand, configFlag } from '../src/base-command.ts';
import { loadConfig } from '../src/config.ts';
import { HpcsError, systemCode } from '../src/errors.ts';
import { keyFile } from '../src/identity/client-identity.ts';
import { enrol } from '../src/identity/enrolled.ts';
import { Secret } from '../src/secret.ts';
import { openServices } from '../src/services.ts';

/** Enrols this client at the HPCS server. */
export default class Enrol extends BaseCommand {
  static override summary = 'enrol this client at the HPCS server with a one-time token';
  static override description = `The token is read from standard input, or from a file: other users of this machine can see what stands in a command line. \
A key pair is made here and its private half never leaves; every later call proves that it is held. Keep the state directory.`;
  static override examples = ['<%= config.bin %> enrol', '<%= config.bin %> enrol --token-file token'];
  static override flags = {
    config: configFlag,
    'token-file': Flags.string({ summary: 'file that holds the token (default: standard input)', helpValue: 'FILE' }),
  };

  async run(): Promise<{ name: string; clientId: string; spiffeId: string; file: string }> {
    const { flags } = await this.parse(Enrol);
    const config = await loadConfig(flags.config);
    const file = await keyFile(config);
    using token = await readToken(flags['token-file'], this.progress);
    await using services = await openServices(config);
    const { name, clientId, spiffeId } = await enrol(services.server, token, {
      file,
      url: config['hpcs-server'].url,
      signal: this.signal,
    });
    this.log(`enrolled as ${name}: client ${clientId}\nits key: ${file}`);
    return { name, clientId, spiffeId, file };
  }
}

async function readToken(file: string | undefined, progress: (line: string) => void): Promise<Secret> {
  if (file === undefined && process.stdin.isTTY) progress('the enrolment token, then Ctrl-D:');
  try {
    const content = file === undefined ? await text(process.stdin) : await readFile(file, 'utf8');
    if (/^\s*[A-Za-z0-9_-]{43}\s*$/.test(content)) return new Secret(content.trim());
  } catch (error) {
    throw new HpcsError(
      'usage',
      'token-unreadable',
      `cannot read the token-file ${file}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'name a readable file, or give the token on standard input',
      },
    );
  }
  throw new HpcsError('usage', 'bad-token', 'this is no enrolment token: one has 43 letters, digits, - and _', {
    suggestion: 'ask those who run the HPCS server for one: hpcs server enrol',
  });
}
