import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';
import { z } from 'zod';
import { loadConfig, type Config } from '../../src/config.ts';
import { HttpClient } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import { lastLog, publishedPort, removeContainer, startPart } from '../../src/sandbox/engine.ts';
import { checkHpcsServer, hpcsServerPlan } from '../../src/sandbox/hpcs-server.ts';
import { defaultName, engineName, ports, sandboxLabel } from '../../src/sandbox/names.ts';
import { logged, logOf } from './container-log.ts';
import { makeCertificate } from './certificate.ts';
import type { Site } from './site.ts';

const sandbox = process.env['HPCS_TEST_SANDBOX'] ?? defaultName;
const state = z.object({ images: z.object({ hpcsServer: z.string() }) });

/** Longest wait for the server to become healthy, in milliseconds. */
const patience = 60_000;

/** An address of this machine that containers of the sandbox reach. */
export async function hostAddress(site: Site): Promise<string> {
  const { IPAM } = await site.docker.getNetwork(sandbox).inspect();
  const address = IPAM?.Config?.[0]?.Gateway;
  if (address === undefined) throw new Error('the network of the sandbox has no gateway');
  return address;
}

/** A further HPCS server on the sandbox's SPIRE and vault, whose configuration has more sections. */
export class LoginServer implements AsyncDisposable {
  readonly container: Docker.Container;
  /** For clients of it. */
  readonly configuration: string;
  readonly config: Config;
  readonly #docker: Docker;

  private constructor(docker: Docker, container: Docker.Container, configuration: string, config: Config) {
    this.#docker = docker;
    this.container = container;
    this.configuration = configuration;
    this.config = config;
  }

  /**
   * @param options.sections INI text
   * @param options.authorities PEM text, for the server at `/etc/hpcs/issuers.pem`
   * @param options.client lines of the clients' section [identity]
   */
  static async start(site: Site, options: { sections: string; authorities: string; client: string }): Promise<LoginServer> {
    const { images } = state.parse(JSON.parse(await readFile(join(site.directory, 'sandbox.json'), 'utf8')));
    const authority = await readFile(join(site.directory, 'ca.pem'), 'utf8');
    const { certificate, key } = makeCertificate(site.temporary, 'login-server');
    const plan = hpcsServerPlan(images.hpcsServer, authority, { certificate, key: new Secret(key) });
    const name = `${defaultName}-login-server`;
    await removeContainer(site.docker, engineName(sandbox, name));
    const container = await startPart(site.docker, sandbox, { [sandboxLabel]: sandbox }, {
      ...plan,
      name,
      files: [
        ...(plan.files ?? []).map((file) =>
          file.name === 'etc/hpcs/hpcs-server.conf' ? { ...file, content: `${String(file.content)}\n${options.sections}` } : file,
        ),
        { name: 'etc/hpcs/issuers.pem', content: options.authorities },
      ],
    }); // prettier-ignore
    const url = `https://127.0.0.1:${await publishedPort(container, ports.hpcsServer)}`;
    const ca = join(site.temporary, 'login-server.pem');
    const usual = await readFile(site.configuration, 'utf8');
    const configuration = join(site.temporary, 'login.conf');
    const changed = usual
      .replace(/(\[hpcs-server\]\n)url=.*\nca-file=.*\n/, `$1url=${url}\nca-file=${ca}\n`)
      .replace(/^key-file=.*$/m, options.client);
    await writeFile(configuration, changed);
    await using http = new HttpClient({ name: 'HPCS server', url, ca: certificate });
    const deadline = Date.now() + patience;
    for (;;) {
      try {
        await checkHpcsServer(http);
        break;
      } catch (error) {
        const { State } = await container.inspect();
        if (!State.Running || Date.now() > deadline) throw new Error(await lastLog(container), { cause: error });
        await sleep(200);
      }
    }
    return new LoginServer(site.docker, container, configuration, await loadConfig(configuration));
  }

  /** What it logged. */
  log(): Promise<string> {
    return logOf(this.container);
  }

  /** What it logged, as soon as something like this is in it. */
  logged(what: RegExp): Promise<string> {
    return logged(this.container, what);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await removeContainer(this.#docker, this.container.id);
  }
}
