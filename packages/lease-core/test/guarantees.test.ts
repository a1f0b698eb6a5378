/** The promises of docs/guarantees.md have the tests that they name. */
import { expect } from 'chai'
import { readFile } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** From the sources and from where they are compiled to alike. */
const docs = resolve(dirname(fileURLToPath(import.meta.url)), '../../../docs')
const ROW = /^\| (\d+) \| (.+) \| (\[`.+) \|$/
const TEST = /^\[`(.+)`\]\((.+)\) "(.+)"$/
/** Of a test, or of a clause of the conformance kit. */
const TITLE = /\b(?:it|clause)\(\s*(?:'([^']+)'|"([^"]+)"|`([^`]+)`),/g
/** A title may begin with the decision that it is about. */
const OF_DECISION = /^decision \d+: /

describe('docs/guarantees.md', () => {
  it('each promise names tests that exist, by their whole titles', async () => {
    const text = await readFile(resolve(docs, 'guarantees.md'), 'utf8')
    const section = text.slice(text.indexOf('## Promises'), text.indexOf('### A guarded write'))
    const rows = section.split('\n').filter((line) => /^\| \d/.test(line))
    expect(rows.length).to.be.at.least(16)
    for (const [index, row] of rows.entries()) {
      const [, number, , tests = ''] = ROW.exec(row) ?? []
      expect(number, row).to.equal(String(index + 1))
      for (const test of tests.split('; [').map((part, nth) => (nth === 0 ? part : `[${part}`))) {
        const [, shown = '', path = '', title = ''] = TEST.exec(test) ?? []
        expect(basename(path), test).to.equal(shown).and.not.to.equal('')
        expect(titlesIn(await readFile(resolve(docs, path), 'utf8')), shown).to.include(title)
      }
    }
  })
})

function titlesIn(source: string): string[] {
  return [...source.matchAll(TITLE)].map(([, ...quoted]) => (quoted.find(Boolean) ?? '').replace(OF_DECISION, ''))
}
