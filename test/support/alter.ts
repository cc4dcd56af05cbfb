import type { Site } from './site.ts';

/**
 * Alters one byte of each of some files on the site: to its complement, since a fixed one could be what is there.
 *
 * @param files words of a shell, which are expanded
 * @param offset number of the shell's arithmetic; `$file` is the file
 */
export async function alterByte(site: Site, files: string, offset: number | string): Promise<void> {
  const { code, stderr } = await site.run(`set -e
for file in ${files}; do
  offset=$((${offset}))
  byte=$(od -A n -t u1 -j $offset -N 1 "$file")
  chmod u+w "$file"
  printf "\\\\$(printf %o $((255 - byte)))" | dd of="$file" bs=1 seek=$offset conv=notrunc
done`);
  if (code !== 0) throw new Error(`altering ${files}: ${stderr}`);
}
