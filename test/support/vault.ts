import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseInfoRecord, vaultRecordSchema, type InfoRecord, type VaultRecord } from '../../src/record.ts';
import { HttpClient } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import { loadConfig } from '../../src/config.ts';
import { z } from 'zod';
import type { Site } from './site.ts';

const owner = z.object({ rootToken: z.string() });
const answer = z.object({ data: z.object({ data: vaultRecordSchema }) });

/** An info record as it lies on the site. */
export async function infoRecord(site: Site, path: string): Promise<InfoRecord> {
  const { stdout } = await site.run(`cat ${path}`);
  return parseInfoRecord(stdout, path);
}

/** Reads an artefact's record with the vault owner's token, which only the sandbox's owner has. */
export async function vaultRecord(site: Site, info: InfoRecord): Promise<VaultRecord> {
  const { rootToken } = owner.parse(JSON.parse(await readFile(join(site.directory, 'openbao.json'), 'utf8')));
  const config = await loadConfig(site.configuration);
  const ca = await readFile(join(site.directory, 'ca.pem'), 'utf8');
  await using http = new HttpClient({ name: 'vault', url: config.vault.url, ca });
  const { body } = await http.json('GET', `/v1/kv/data/${info.secret_path}`, {
    headers: { 'x-vault-token': new Secret(rootToken) },
  });
  return answer.parse(body).data.data;
}
