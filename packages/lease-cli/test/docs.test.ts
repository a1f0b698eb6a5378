import { readdirSync, readFileSync } from 'node:fs'
import { expect } from 'chai'
import { EXAMPLES } from '#src/help-texts.ts'
import { World } from './screen.ts'

const root = new URL('../../../', import.meta.url)
const pages = [
  'packages/lease-cli/README.md',
  ...readdirSync(new URL('docs/operations/', root)).map((name) => `docs/operations/${name}`),
]

/** Each line of a shell that begins with `lease`, without its comment. */
const lines = new Map<string, string>()
for (const page of pages) {
  const text = readFileSync(new URL(page, root), 'utf8')
  for (const [, code = ''] of text.matchAll(/^```sh\n(.*?)^```/gms)) collect(page, code)
}
for (const [name, text] of Object.entries(EXAMPLES)) collect(`lease help ${name}`, text)

/** A line that is written down works: the parser and the checks of each command take it, and only the store is missing. */
describe('every command line in the documentation and in the help of lease', () => {
  it('is found', () => expect(lines.size).to.be.above(40))

  for (const [line, page] of lines) {
    it(`${line} (${page})`, async () => {
      const { code, stderr } = await new World().lease(words(line), { env: { LEASE_URL: '' } })
      if (/^lease (completion|plans|migrate --dry-run|help)/.test(line) && code === 0) return
      expect(stderr).to.match(/no store is named|token file cannot be read|lease-console is not installed/)
    })
  }
})

function collect(page: string, code: string): void {
  for (const [, text = ''] of code.matchAll(/^ *(?:[A-Z_]+=\S+ )*(lease .*)$/gm)) {
    const line = text.replace(/ {2,}.*$| #.*$| [|>] .*$/, '').trim()
    lines.set(line, page)
  }
}

/** As a shell takes it apart. */
function words(line: string): string[] {
  const parts = line.match(/(?:[^\s'"]|'[^']*'|"[^"]*")+/g) ?? []
  return parts.slice(1).map((part) => part.replaceAll(/'([^']*)'|"([^"]*)"/g, '$1$2'))
}
