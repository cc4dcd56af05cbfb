import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { homeOf } from '../home.ts';

const schema = z.object({
  auths: z
    .record(
      z.string(),
      z.object({
        auth: z.string().optional(),
        username: z.string().optional(),
        password: z.string().optional(),
        identitytoken: z.string().optional(),
        registrytoken: z.string().optional(),
      }),
    )
    .default({}),
  credsStore: z.string().optional(),
  credHelpers: z.record(z.string(), z.string()).default({}),
  currentContext: z.string().optional(),
});

/** What this program uses of the Docker client's own configuration. @see Docker CLI reference, "Configuration files" */
export type DockerConfig = z.output<typeof schema>;

/** Where the Docker client keeps its configuration: `DOCKER_CONFIG`, else `~/.docker`. */
function dockerConfigDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return env['DOCKER_CONFIG'] || join(homeOf(env), '.docker');
}

/**
 * Reads the Docker client's `config.json`; an absent one is an empty one.
 *
 * @throws HpcsError `local` when it is there but cannot be read or is not valid
 */
export async function readDockerConfig(env: NodeJS.ProcessEnv = process.env): Promise<DockerConfig> {
  const file = join(dockerConfigDirectory(env), 'config.json');
  let content: string;
  try {
    content = await readFile(file, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return schema.parse({});
    throw invalid(file, systemCode(error) ?? 'unknown error');
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(content);
  } catch {
    // The parser's message quotes the text around the fault, which may be a password.
    throw invalid(file, 'it is not JSON');
  }
  const result = schema.safeParse(parsed);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw invalid(file, `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'invalid'}`);
}

/**
 * The engine address of a named context of the Docker client (`docker context use`).
 *
 * @returns for example `unix:///run/user/1000/docker.sock`
 * @throws HpcsError `local` when there is no such context
 * @see Docker CLI, package cli/context/store: `contexts/meta/<sha256 of the name>/meta.json`
 */
export async function contextHost(name: string, env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const id = createHash('sha256').update(name).digest('hex');
  const file = join(dockerConfigDirectory(env), 'contexts', 'meta', id, 'meta.json');
  const metaSchema = z.object({ Endpoints: z.object({ docker: z.object({ Host: z.string().min(1) }) }) });
  try {
    return metaSchema.parse(JSON.parse(await readFile(file, 'utf8'))).Endpoints.docker.Host;
  } catch (error) {
    throw new HpcsError('local', 'docker-context', `cannot read the Docker context '${name}': ${messageOf(error)}`, {
      cause: error,
      suggestion: "choose another with 'docker context use', or name the engine with --docker-path or DOCKER_HOST",
    });
  }
}

function invalid(file: string, what: string): HpcsError {
  return new HpcsError('local', 'docker-config', `cannot use the Docker configuration ${file}: ${what}`, {
    suggestion: 'repair the file, or name another directory with DOCKER_CONFIG',
  });
}
