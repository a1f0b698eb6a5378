import { expect } from 'chai'
import { findings, findingsIn } from '#src/words.ts'

const found = (file: string, text: string): string[] =>
  findingsIn(file, text).map(({ line, words }) => `${line}: ${words}`)

describe('the check of words', () => {
  it('finds nothing in this workspace', () => {
    expect(
      findings().map(({ file, line, words, instead }) => `${file}:${line}: "${words}": write ${instead}`),
    ).to.deep.equal([])
  })

  it('finds a word in a page, with its line, and not in its code', () => {
    const page =
      'Plain.\nWhoever waits is told of it.\n\n```ts\nconst his = told\n```\n\n`whoever`, [told](whoever.md)\n'
    expect(found('page.md', page)).to.deep.equal(['2: Whoever', '2: is told'])
  })

  it('finds a word in a comment, a title and an error of a source, and not in its names', () => {
    const source = [
      '/** Whoever comes, `whoever` goes. */',
      'const told = his + whoever // in line with others',
      "it('is told of a loss', () => fail(`he waits for ${whoever}`))",
      "const url = 'https://whoever'",
    ].join('\n')
    expect(found('source.ts', source)).to.have.members(['1: Whoever', '2: in line', '3: is told', '3: he'])
  })

  it('finds words that stand on two lines, and shows the first of them', () => {
    expect(found('source.ts', '/**\n * A holder is\n * told of it.\n */')).to.deep.equal(['2: is told'])
  })

  it('wants decisions to be links', () => {
    const page = 'See decision 12, or [decision 12](decisions/0012.md).'
    expect(found('page.md', page)).to.deep.equal(['1: decision 12'])
  })
})
