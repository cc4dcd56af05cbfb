import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { stringify } from 'yaml';
import { loadConfig } from '../../src/config.ts';
import { openIdentity } from '../../src/identity/client-identity.ts';
import { tarOf } from '../../src/pack/tar.ts';
import { generateKey } from '../../src/seal/keys.ts';
import { openServices } from '../../src/services.ts';
import type { Prepared } from './jobs.ts';
import { containerOf, type Site } from './site.ts';

/** What the original puts into an image, as far as a job meets it: logic that cannot do without a token in its environment. */
const logic = {
  'input_logic/run.sh': '#!/bin/sh\necho "input logic of the original, token: ${data_login:?}"\n',
  'input_logic/in.sh': '#!/bin/sh\necho input script of the image\n',
  'output_logic/run.sh': '#!/bin/sh\ntest -r ~/output_key\n',
  'output_logic/out.sh': '#!/bin/sh\necho output script of the image\n',
};

// The entry point is that which the original writes, with the application's own in its middle.
const dockerfile = (entrypoint: string): string => `FROM debian:bookworm-slim
COPY application /application
RUN mkdir -p /sd-container/input /sd-container/output /sd-container/scratch /sd-container/tools /sd-container/keys
VOLUME /sd-container/output
VOLUME /sd-container/input
COPY input_logic /sd-container/tools/input_logic
COPY output_logic /sd-container/tools/output_logic
ENTRYPOINT /sd-container/tools/input_logic/run.sh && ${entrypoint} $@ > /sd-container/output/stdout 2> /sd-container/output/stderr ; echo $? > /sd-container/output/exit_code ; /sd-container/tools/output_logic/run.sh
`;

/**
 * Prepares an image as the original does: built by the engine, made a SIF by `apptainer build`, sealed with age.
 *
 * @param application shell program; it is the image's entry point
 */
export async function originalImage(site: Site, name: string, application: string): Promise<Prepared> {
  const tag = `hpcs-test/original-${name.replaceAll(/[^a-z0-9]+/g, '-')}`;
  await site.image(tag, { Dockerfile: dockerfile('/application'), application, ...logic });
  const archive = await buffer(await site.docker.getImage(tag).get());
  await place(site, 'oci.tar', archive);
  await ok(site, `cd ${site.scratch} && apptainer -q build --force plain docker-archive:oci.tar && rm oci.tar`);
  return publish(site, name);
}

/** Prepares a directory as the original does: a compressed tar archive, sealed with age. */
export async function originalData(
  site: Site,
  name: string,
  directory: string,
  files: Record<string, string>,
): Promise<Prepared> {
  const entries = Object.entries(files).map(([path, content]) => ({ name: `${directory}/${path}`, content }));
  await place(site, 'plain.tar', tarOf(entries));
  await ok(site, `cd ${site.scratch} && gzip -n < plain.tar > plain && rm plain.tar`);
  return publish(site, name);
}

/** Seals `plain` of the scratch directory, stores its key alone in the vault, and writes the five fields of the info record. */
async function publish(site: Site, name: string): Promise<Prepared> {
  const { publicKey, secretKey } = await generateKey('age');
  await place(site, 'age', await readFile(join(site.directory, 'programs/age')));
  const path = `${site.scratch}/${name}`;
  await ok(site, `cd ${site.scratch} && chmod +x age && ./age -r ${publicKey} -o ${path} plain && rm -f plain age`);
  const checksum = (await ok(site, `sha512sum < ${path}`)).slice(0, 128);

  const config = await loadConfig(site.configuration);
  const { signal } = new AbortController();
  await using services = await openServices(config);
  await using identity = await openIdentity(config, { signal, progress: () => {} });
  const grant = await services.server.createWorkloads({
    jwt: await identity.jwt(services.audiences.hpcsServer),
    secret: name,
    users: ['alice'],
    groups: [],
    computeNodes: ['nid000001'],
    signal,
  });
  await using session = await services.vault.login(
    `client_${identity.clientId}`,
    await identity.jwt(services.audiences.vault),
    signal,
  );
  await session.writeNew(grant.secretPath, { key: secretKey.reveal() }, signal);
  const info = { path_at_rest: path, secret_path: grant.secretPath, access_role: grant.role, checksum, spiffeID: grant.spiffeId };
  await place(site, `${name}.info.yaml`, Buffer.from(stringify({ info })));
  return { info: `${path}.info.yaml` };
}

/** Puts a file of alice's into the scratch directory. */
async function place(site: Site, name: string, content: Uint8Array): Promise<void> {
  const archive = Readable.from([tarOf([{ name, content, mode: 0o644 }])]);
  await site.docker.getContainer(containerOf('site')).putArchive(archive, { path: site.scratch });
  await site.run(`chown alice: ${site.scratch}/${name}`, 'root');
}

async function ok(site: Site, script: string): Promise<string> {
  const { code, stdout, stderr } = await site.run(script);
  if (code !== 0) throw new Error(`${script}: ${stderr}`);
  return stdout;
}
