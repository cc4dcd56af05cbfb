import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HpcsError, systemCode } from './errors.ts';
import { writeDurably } from './state.ts';

const schema = z.array(
  z.object({
    site: z.string(),
    /** Absolute path of the info record on the site. */
    info: z.string(),
    artefact: z.string(),
    secretPath: z.string(),
    sha512: z.string(),
    created: z.string(),
  }),
);

/** One artefact that this client published. */
export type CatalogueEntry = z.output<typeof schema>[number];

/**
 * The client's own memory of what it published: what the site shows later is compared with it, so that the site cannot
 * roll an artefact back to an earlier one, whose vault record is as true as the new one's.
 */
export class Catalogue {
  readonly #file: string;

  constructor(stateDirectory: string) {
    this.#file = join(stateDirectory, 'catalogue.json');
  }

  async #read(): Promise<CatalogueEntry[]> {
    let content: string;
    try {
      content = await readFile(this.#file, 'utf8');
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return [];
      throw new HpcsError('local', 'catalogue-unreadable', `cannot read ${this.#file}: ${systemCode(error) ?? 'unknown error'}`, {
        cause: error,
      });
    }
    const parsed = schema.safeParse(JSON.parse(content));
    if (parsed.success) return parsed.data;
    throw new HpcsError('local', 'catalogue-unreadable', `${this.#file} is not a catalogue`, {
      suggestion: 'move it away; the next submission will rely on the vault alone',
    });
  }

  /** Remembers an artefact as the newest under its info record. */
  async add(entry: CatalogueEntry): Promise<void> {
    await writeDurably(this.#file, JSON.stringify([...(await this.#read()), entry], null, 1));
  }

  /** The newest artefact this client published under an info record, if any. */
  async newest(site: string, info: string): Promise<CatalogueEntry | undefined> {
    return (await this.#read()).findLast((entry) => entry.site === site && entry.info === info);
  }
}
