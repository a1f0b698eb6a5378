/** The promises of docs/guarantees.md have the tests that they name. */
import { expect } from 'chai'
import { readFile } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** From the sources and from where they are compiled to alike. */
const docs = resolve(dirname(fileURLToPath(import.meta.url)), '../../../docs')
const ROW = /^\| (\d+) \| (.+) \| \[`(.+)`\]\((.+)\) "(.+)" \|$/

describe('docs/guarantees.md', () => {
  it('each promise names a test that exists', async () => {
    const text = await readFile(resolve(docs, 'guarantees.md'), 'utf8')
    const section = text.slice(text.indexOf('## Promises'), text.indexOf('### A guarded write'))
    const rows = section.split('\n').filter((line) => /^\| \d/.test(line))
    expect(rows.length).to.be.at.least(16)
    for (const [index, row] of rows.entries()) {
      const [, number, , shown = '', path = '', title = ''] = ROW.exec(row) ?? []
      expect(number, row).to.equal(String(index + 1))
      expect(basename(path)).to.equal(shown)
      const titles = (await readFile(resolve(docs, path), 'utf8')).match(/\bit\((['`]).*?\1,/g) ?? []
      expect(
        titles.some((found) => found.includes(title)),
        `${shown} has no test "${title}"`,
      ).to.equal(true)
    }
  })
})
