/** `npx -y pnpm@10 sizes`: prints what each package weighs once npm has installed it, and how long its import takes. */
import { measureSizes } from './sizes.ts'

const kilobytes = (bytes: number): string => `${Math.round(bytes / 1000)}`

console.log(`Node ${process.version}; kB of files; the import as the median of nine processes`)
console.log('| package | own | with what it needs | import [ms] | it needs |\n|---|--:|--:|--:|---|')
for (const { name, ownBytes, withBytes, importMs, brings } of await measureSizes()) {
  const cells = [name, kilobytes(ownBytes), kilobytes(withBytes), importMs.toFixed(0), brings.join(', ')]
  console.log(`| ${cells.join(' | ')} |`)
}
