/** Arrays as parameters. */

/** What JSON writes in a way that PostgreSQL reads otherwise, and perhaps some that it does not. */
const otherEscape = /\\[^"\\]/

/**
 * The values as PostgreSQL writes an array, for the driver to pass on as it is. Drivers write them one by one, and much
 * slower than JSON is written, which has the same quotes and the same `\"` and `\\`. There is no NULL among them: it would be
 * the word where `array_nulls` is off.
 */
export function arrayOf(values: readonly (string | number | bigint | boolean)[]): string {
  const plain = values.map((value) => (typeof value === 'bigint' ? String(value) : value))
  const json = JSON.stringify(plain)
  if (!otherEscape.test(json)) return `{${json.slice(1, -1)}}`
  return `{${plain.map((value) => (typeof value === 'string' ? quoted(value) : value)).join(',')}}`
}

const quoted = (text: string): string => `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`
