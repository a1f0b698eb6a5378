/** The pages, without the engine that makes HTML of them. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect } from 'chai'
import * as core from 'lease-core'
import { root } from '#src/build.ts'
import { content, fenceExamples, published } from '#src/content.ts'

describe('the content of the site', () => {
  const { pages, dead } = content(root)
  const page = (path: string): string => pages.find((one) => one.path === path)?.text ?? ''

  it('has no link that leads nowhere, to a page or to a heading', () => {
    expect(dead).to.deep.equal([])
  })

  it('has every page of docs/ and the README of every package', () => {
    const paths = pages.map(({ path }) => path)
    expect(paths).to.include.members(['guarantees.md', 'recipes/index.md', 'recipes/lead.md', 'substrates/redis.md'])
    expect(paths).to.include.members(published(root).map((name) => `packages/${name}.md`))
  })

  it('explains the code of every error that core throws', () => {
    const codes = Object.values(core)
      .filter(
        (one): one is typeof core.ErrLost =>
          typeof one === 'function' && one.prototype instanceof core.LeaseError && one !== (core.LeaseError as unknown),
      )
      .map((one) => new one('', { reason: 'expired' }).code)
    expect(codes).to.have.length.above(6)
    for (const code of codes) expect(page('errors.md')).to.include(`\`${code}\``)
  })

  it('lists the page of every question', () => {
    const questions = pages.map(({ path }) => path).filter((path) => /^questions\/(?!index)/.test(path))
    expect(questions).to.have.length.above(14)
    for (const path of questions) expect(page('questions/index.md')).to.include(`](/${path})`)
  })

  it('has the whole of each example behind a tab of the quick start', () => {
    const tabs = [...page('quick-start.md').matchAll(/^```ts \[(.+)\]$/gm)].map(([, name]) => name)
    expect(tabs).to.include.members([
      'PostgreSQL',
      'postgres.js',
      'Redis',
      'node-redis',
      'etcd',
      'DynamoDB',
      'in memory',
    ])
    expect(page('quick-start.md')).to.include('export async function quickStart(').and.to.include('redisQuickStart(')
  })

  it('shows an example of a doc comment as it was written, and leaves lists and fenced code alone', () => {
    expect(fenceExamples('Runs it:\n\n    f(() =\\> \\{ a\\<b\\> \\})\n    g()\n\nIt \\<may\\>.\n')).to.equal(
      'Runs it:\n\n```ts\nf(() => { a<b> })\ng()\n```\n\nIt \\<may\\>.\n',
    )
    for (const other of [
      '- a\n\n    b \\{\n',
      'a\n\n    - b \\{\n',
      '```ts\na\n\n    b \\{\n```\n',
      'a\n    b \\{\n',
    ]) {
      expect(fenceExamples(other)).to.equal(other)
    }
  })

  it('names every link that leads nowhere, and leaves code alone', async () => {
    const home = await mkdtemp(join(tmpdir(), 'site-'))
    const files = {
      'README.md': '# Home\n\n[gone](docs/gone.md) [there](docs/a.md#the-b) [nowhere](docs/a.md#c)\n',
      'docs/a.md': '# A\n\n## The `b`!\n\nx <y> `<z>` [code](../src/x.ts)\n\n```ts\n// [gone](gone.md) <t>\n```\n',
      'packages/lease-site/pages/index.md': '# I\n\n<<< ../../../src/gone.ts [T]\n',
      'src/x.ts': 'export const x = 1\n',
    }
    for (const [path, text] of Object.entries(files)) {
      await mkdir(dirname(join(home, path)), { recursive: true })
      await writeFile(join(home, path), text)
    }
    try {
      const made = content(home)
      expect(made.dead).to.have.members([
        'README.md: docs/gone.md',
        'README.md: /a.md#c',
        'packages/lease-site/pages/index.md: ../../../src/gone.ts',
      ])
      const a = made.pages.find(({ path }) => path === 'a.md')?.text
      expect(a).to.equal(
        '# A\n\n## The `b`!\n\nx &lt;y> `<z>` [code](/sources/src/x.ts.md)\n\n```ts\n// [gone](gone.md) <t>\n```\n',
      )
      expect(made.pages.find(({ path }) => path === 'sources/src/x.ts.md')?.text).to.include('export const x = 1')
    } finally {
      await rm(home, { recursive: true })
    }
  })
})
