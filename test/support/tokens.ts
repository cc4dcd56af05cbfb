/** What tokens have in them: JWTs, and those of OpenBao and Vault. */
export const tokenPattern = /eyJ|hvs\.|s\.[A-Za-z0-9]{24}/;

/** Text without thumbprints and keys of 256 bits: one in some thousands has letters of a token in it by chance. No token is so short. */
export function withoutThumbprints(text: string): string {
  return text.replaceAll(/(?<![\w-])[\w-]{43}(?![\w-])/g, '');
}
