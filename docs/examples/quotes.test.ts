import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { expect } from 'chai'

const root = pathToFileURL(`${process.cwd()}/`)
/** `<!-- docs/examples/kysely.ts -->`, then a block of code: each of its paragraphs is in that file, in that order. */
const quotes = /(?:<!-- docs\/examples\/(?<file>\S+) -->\n+)?```ts\n(?<code>.*?)```/gs

const recipes = await readdir(new URL('docs/recipes/', root))
const published = [
  'lease-core',
  'lease-postgres',
  'lease-redis',
  'lease-etcd',
  'lease-dynamodb',
  'lease-recipes',
  'lease-cron',
  'lease-nestjs',
  'lease-otel',
  'lease-console',
  'lease-cli',
]

for (const page of [
  'README.md',
  'docs/cookbook.md',
  'docs/concepts.md',
  'docs/guarantees.md',
  'docs/setup.md',
  'docs/adapters.md',
  'docs/testing.md',
  'docs/capacity.md',
  'docs/operations/metrics.md',
  'docs/operations/console.md',
  'docs/substrates/postgres.md',
  'docs/substrates/redis.md',
  'docs/substrates/etcd.md',
  'docs/substrates/dynamodb.md',
  ...recipes.map((name) => `docs/recipes/${name}`),
  ...published.map((name) => `packages/${name}/README.md`),
]) {
  describe(`the code in ${page}`, () => {
    it('is quoted from examples that are run', async () => {
      const text = await readFile(new URL(page, root), 'utf8')
      for (const { groups } of text.matchAll(quotes)) {
        const code = groups?.['code'] ?? ''
        const file = groups?.['file']
        expect(file, `no example is named above:\n${code}`).to.be.a('string')
        const example = unindented(await readFile(new URL(`docs/examples/${file}`, root), 'utf8'))
        let from = 0
        for (const paragraph of unindented(code)
          .trim()
          .split(/\n{2,}/)) {
          const at = example.indexOf(paragraph, from)
          expect(at, `not in ${file}, or not in this order:\n${paragraph}`).to.be.at.least(0)
          from = at + paragraph.length
        }
      }
    })
  })
}

const pages = [
  '.',
  'docs',
  'docs/decisions',
  'docs/operations',
  'docs/recipes',
  'docs/substrates',
  ...published.map((name) => `packages/${name}`),
  'packages/lease-bench',
  'packages/lease-site/pages',
  'packages/lease-site/pages/questions',
]
for (const folder of pages) {
  it(`every link of the pages in ${folder} leads to a file`, async () => {
    const broken: string[] = []
    for (const { page, text } of await pagesIn(folder)) {
      for (const [, target = ''] of text.matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)) {
        if (!existsSync(new URL(target, new URL(`${folder}/${page}`, root)))) broken.push(`${page}: ${target}`)
      }
    }
    expect(broken).to.deep.equal([])
  })
}

/** A wider line cannot be broken: a table, a link, a heading, code. */
const UNBROKEN = /^\s*[|#>]|^\s*([-*+]|\d+\.)?\s*\S+$|\]\(\S+$|^<!--|^ {4}/
for (const folder of pages) {
  it(`the prose of the pages in ${folder} is wrapped at 120 columns, so that a change of a sentence is a small one`, async () => {
    const long: string[] = []
    for (const { page, text } of await pagesIn(folder)) {
      const prose = text.replaceAll(/^( *)```.*?^\1```/gms, '')
      for (const line of prose.split('\n')) if (line.length > 120 && !UNBROKEN.test(line)) long.push(`${page}: ${line}`)
    }
    expect(long).to.deep.equal([])
  })
}

it('every file that docs/architecture.md names in its paths is a file of lease-core', async () => {
  const text = await readFile(new URL('docs/architecture.md', root), 'utf8')
  const named = Array.from(text.matchAll(/`([a-z-]+\.ts)`/g), ([, name = '']) => name)
  expect(named).to.have.length.above(20)
  const missing = named.filter((name) => !existsSync(new URL(`packages/lease-core/src/${name}`, root)))
  expect(missing.filter((name) => !existsSync(new URL(`packages/lease-core/test/${name}`, root)))).to.deep.equal([])
})

it('every event of lease-core is listed in docs/operations/metrics.md, with all of its fields', async () => {
  const source = await readFile(new URL('packages/lease-core/src/events.ts', root), 'utf8')
  const [, union = ''] = /type LeaseEventBody =\n(.*?)\n\n/s.exec(source) ?? []
  const events = union.split(/^ {2}\| /m).slice(1)
  const fields = (event: string): string[] => Array.from(event.matchAll(/readonly (\w+)\??:/g), ([, name = '']) => name)
  const defined = events.map((event) => {
    const [, type = ''] = /type: '(\w+)'/.exec(event) ?? []
    return `${type}: ${fields(event)
      .filter((name) => name !== 'type')
      .join()}`
  })
  expect(defined).to.have.length.above(10)
  const page = await readFile(new URL('docs/operations/metrics.md', root), 'utf8')
  const [, table = ''] = /## Events\n(.*?)\n## /s.exec(page) ?? []
  const listed = Array.from(table.matchAll(/^\| `(\w+)` \|.*\|(.*)\|$/gm), ([, type, cells = '']) => {
    return `${type}: ${Array.from(cells.matchAll(/`(\w+)`/g), ([, name = '']) => name).join()}`
  })
  expect(listed).to.deep.equal(defined)
})

it('every example is run by a test', async () => {
  const files = await readdir(fileURLToPath(new URL('docs/examples/', root)))
  const examples = files.filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
  const imported: string[] = []
  for (const file of files.filter((one) => one.endsWith('.test.ts'))) {
    const text = await readFile(new URL(`docs/examples/${file}`, root), 'utf8')
    imported.push(...Array.from(text.matchAll(/'\.\/(.*?\.ts)'/g), ([, name]) => basename(name ?? '')))
  }
  expect(examples.filter((file) => !imported.includes(file))).to.deep.equal([])
})

function unindented(code: string): string {
  return code.replace(/^ +/gm, '')
}

async function pagesIn(folder: string): Promise<readonly { readonly page: string; readonly text: string }[]> {
  const pages = (await readdir(new URL(`${folder}/`, root))).filter((name) => name.endsWith('.md'))
  const read = async (page: string) => ({ page, text: await readFile(new URL(`${folder}/${page}`, root), 'utf8') })
  return await Promise.all(pages.map(read))
}
