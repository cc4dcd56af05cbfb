import { setFlagsFromString } from 'node:v8';

/**
 * How far the old generation of the JavaScript heap may grow until it is collected again: by a fifth, or as V8 likes. By a fifth is for
 * data that streams through, of which threads drop so little that else it would be collected only after gigabytes: ten MiB less, and no
 * more processor time that could be measured. Where a large tree is made, as an image's, it would take a quarter more.
 */
export function collect(how: 'often' | 'as usual'): void {
  setFlagsFromString(`--heap-growing-percent=${how === 'often' ? 20 : 0}`);
}
