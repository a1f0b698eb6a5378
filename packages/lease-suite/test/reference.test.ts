import { expect } from 'chai'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { publishedPackages } from '#src/checks.ts'
import { reference, REFERENCE_PAGE } from '#src/reference.ts'
import { root } from '#src/test-files.ts'

describe('docs/reference.md', () => {
  const page = readFileSync(REFERENCE_PAGE, 'utf8')

  it('is what the sources say: each event with its fields, each warning with its code, each option with its default', () => {
    expect(page, 'run: npx -y pnpm@10 reference').to.equal(reference())
  })

  it('names each word that the sources give to a warning', () => {
    const words = publishedPackages().flatMap((name) => {
      const folder = join(root, `packages/${name}/src`)
      const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts'))
      return files.flatMap((path) => {
        const text = readFileSync(join(folder, path), 'utf8')
        return Array.from(text.matchAll(/\bwarning: '([a-z-]+)'/g), ([, word = '']) => word)
      })
    })
    expect(words).to.include('store-away')
    expect(words.filter((word) => !page.includes(`| \`${word}\` |`))).to.deep.equal([])
  })
})
