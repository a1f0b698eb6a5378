/** The records that runs leave in docs/reliability.md, each between two marks. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './test-files.ts'

/** Replaces the lines between `<!-- name -->` and `<!-- end of name -->`. @throws when the page has no such marks */
export function rewriteRecord(name: string, rewrite: (before: readonly string[]) => readonly string[]): void {
  const page = join(root, 'docs/reliability.md')
  const text = readFileSync(page, 'utf8')
  const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`]
  const [from, to] = [text.indexOf(begin) + begin.length, text.indexOf(end)]
  if (from < begin.length || to < from) throw new Error(`docs/reliability.md has no place between ${begin} and ${end}`)
  const lines = rewrite(text.slice(from, to).trim().split('\n'))
  writeFileSync(page, `${text.slice(0, from)}\n\n${lines.join('\n')}\n\n${text.slice(to)}`)
}
