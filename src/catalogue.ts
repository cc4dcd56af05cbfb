import { join, posix } from 'node:path';
import { z } from 'zod';
import { readRecords, writeDurably } from './state.ts';

const schema = z.object({
  site: z.string(),
  /** Absolute path of the info record on the site. */
  info: z.string(),
  /** Artefact id: 32 hex characters. */
  artefact: z.string().regex(/^[0-9a-f]{32}$/),
  secretPath: z.string(),
  sha512: z.string(),
  /** RFC 3339 time in UTC. */
  created: z.string(),
});

/** One artefact that this client published. */
export type CatalogueEntry = z.output<typeof schema>;

/**
 * The client's own memory of what it published: what the site shows later is compared with it, so that the site cannot
 * roll an artefact back to an earlier one, whose vault record is as true as the new one's.
 *
 * One file an artefact below the state directory, so that two stages at once forget nothing.
 */
export class Catalogue {
  readonly #directory: string;

  constructor(stateDirectory: string) {
    this.#directory = join(stateDirectory, 'artefacts');
  }

  /** Remembers an artefact as the newest under its info record. @throws HpcsError `local` */
  async add(entry: CatalogueEntry): Promise<void> {
    const { artefact } = schema.parse(entry);
    await writeDurably(
      join(this.#directory, `${artefact}.json`),
      JSON.stringify({ ...entry, info: posix.normalize(entry.info) }),
    );
  }

  /** The newest artefact this client published under an info record, if any. @throws HpcsError `local` when it cannot tell */
  async newest(site: string, info: string): Promise<CatalogueEntry | undefined> {
    const path = posix.normalize(info);
    const entries = (await readRecords(this.#directory, schema)).filter((entry) => entry.site === site && entry.info === path);
    return entries.toSorted((a, b) => a.created.localeCompare(b.created)).at(-1);
  }
}
