/**
 * Builds the site: content, API reference, llms.txt, HTML. VitePress and TypeDoc are in a folder of their own that npm fills once
 * (`engine/package.json`); after that nothing is fetched.
 */
import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, posix, resolve } from 'node:path'
import { promisify } from 'node:util'
import { npmFolder } from 'lease-servers'
import { content, fenceExamples, published, type Page } from '#src/content.ts'

/** The folder of the repository. */
export const root: string = resolve(import.meta.dirname, '../../..')

export interface Site extends AsyncDisposable {
  /** The folder with the HTML. */
  readonly folder: string
  readonly pages: readonly Page[]
}

const run = promisify(execFile)
const own = join(root, 'packages/lease-site')

/** An entry of a package, as it is imported. */
interface Entry {
  /** For instance `lease-core/testing`. */
  readonly name: string
  /** Its declarations. */
  readonly types: string
}

/** @throws a link leads nowhere, an export has no page, or VitePress or TypeDoc fails. The packages must be built */
export async function buildSite(): Promise<Site> {
  const { pages, dead } = content(root)
  if (dead.length > 0) throw new Error(`links that lead nowhere:\n${dead.join('\n')}`)
  const engine = await npmFolder({
    name: 'site',
    manifest: await readFile(join(own, 'engine/package.json'), 'utf8'),
    cache: join(own, 'node_modules/.cache'),
  })
  const project = await mkdtemp(join(engine, 'project-'))
  const dispose = (): Promise<void> => rm(project, { recursive: true, force: true })
  try {
    const site = join(project, 'content')
    for (const { path, text } of pages) await write(join(site, path), text)
    await cp(join(root, 'docs/pictures'), join(site, 'public/docs/pictures'), { recursive: true })
    const entries = entriesOf(root)
    await writeApi(engine, project, entries)
    const missing = await exportsWithoutPage(join(site, 'api'), entries)
    if (missing.length > 0) throw new Error(`exports without a page:\n${missing.join('\n')}`)
    await cp(join(own, 'engine/config.mjs'), join(site, '.vitepress/config.mjs'))
    await cp(join(own, 'engine/theme.mjs'), join(site, '.vitepress/theme/index.mjs'))
    await cp(join(own, 'engine/favicon.svg'), join(site, 'public/favicon.svg'))
    await cp(join(own, 'engine/style.css'), join(site, '.vitepress/theme/style.css'))
    await write(join(site, '.vitepress/pages.json'), JSON.stringify({ sidebar: sidebarOf(pages) }))
    const env = { ...process.env, NODE_ENV: 'production' }
    await run(process.execPath, [join(engine, 'node_modules/vitepress/bin/vitepress.js'), 'build', site], {
      env,
      ...LARGE,
    })
    const folder = join(site, '.vitepress/dist')
    for (const { path, text } of pages) await write(join(folder, path), text)
    await write(join(folder, 'llms.txt'), llms(pages))
    await write(
      join(folder, 'llms-full.txt'),
      pages
        .filter(isRead)
        .map(({ text }) => text)
        .join('\n\n'),
    )
    return { folder, pages, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

const LARGE = { maxBuffer: 64 * 1024 * 1024 }

async function write(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, text)
}

/** What each published package exports. */
export function entriesOf(repository: string): Entry[] {
  return published(repository).flatMap((name) => {
    const folder = join(repository, 'packages', name)
    const { exports } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
      readonly exports: Readonly<Record<string, { readonly types?: string }>>
    }
    return Object.entries(exports).flatMap(([path, { types }]) =>
      types === undefined ? [] : [{ name: join(name, path), types: join(folder, types) }],
    )
  })
}

/** TypeDoc reads the declarations that npm publishes, and names each entry after its file. */
async function writeApi(engine: string, project: string, entries: readonly Entry[]): Promise<void> {
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2022',
    lib: ['es2023', 'esnext.disposable', 'dom'],
    strict: true,
    skipLibCheck: true,
    types: [],
  }
  const files = entries.map(({ types }) => types)
  await write(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }))
  const api = join(project, 'content/api')
  const options = {
    tsconfig: 'tsconfig.json',
    entryPoints: files,
    out: api,
    plugin: ['typedoc-plugin-markdown'],
    entryFileName: 'index',
    outputFileStrategy: 'modules',
    name: 'API',
    readme: 'none',
    skipErrorChecking: true,
    disableSources: true,
    excludeExternals: true, // what an error inherits from Error
    hidePageHeader: true,
    hideBreadcrumbs: true,
    sanitizeComments: true,
    githubPages: false,
  }
  await write(join(project, 'typedoc.json'), JSON.stringify(options))
  await run(process.execPath, [join(engine, 'node_modules/typedoc/bin/typedoc')], { cwd: project, ...LARGE })
  // What was named after its file is named as it is imported.
  const named = (file: string): string => file.replace('/dist.md', '/index.md').replace('/dist/', '/')
  for (const file of await markdownIn(api)) {
    const text = await readFile(join(api, file), 'utf8')
    await rm(join(api, file))
    const link = (_: string, target: string): string => `](/api/${named(posix.join(posix.dirname(file), target))}`
    const plain = text
      .replaceAll(/\]\((?!https?:)([^)#\s]+\.md)/g, link)
      .replaceAll(/^((?:# |- \[).*lease-[a-z]+)\/dist/gm, '$1')
    await write(join(api, named(file)), fenceExamples(plain))
  }
}

async function markdownIn(folder: string): Promise<string[]> {
  return (await readdir(folder, { recursive: true })).filter((name) => name.endsWith('.md'))
}

/** Names that an entry exports, and that no page of it is called by. */
export async function exportsWithoutPage(api: string, entries: readonly Entry[]): Promise<string[]> {
  const missing: string[] = []
  for (const { name, types } of entries) {
    const page = name.includes('/') ? `${name}.md` : `${name}/index.md`
    const text = existsSync(join(api, page)) ? await readFile(join(api, page), 'utf8') : ''
    // A heading, or a line that says where it is re-exported from.
    const known = new Set(
      [...text.matchAll(/^###? (?:`?abstract`? )?([\w\\]+)/gim)].map(([, one]) => one?.replaceAll('\\', '')),
    )
    for (const one of exportedBy(await readFile(types, 'utf8'))) {
      if (!known.has(one)) missing.push(`${name}: ${one}`)
    }
  }
  return missing
}

/** Exports by name; the house style has no others. */
function exportedBy(declarations: string): string[] {
  const lists = [...declarations.matchAll(/^export (?:type )?\{([^}]*)\}/gm)].flatMap(([, list = '']) =>
    list
      .split(',')
      .map((one) =>
        one
          .replace(/^\s*type /, '')
          .replace(/^.* as /, '')
          .trim(),
      )
      .filter((one) => one !== ''),
  )
  const single = [
    ...declarations.matchAll(/^export (?:declare )?(?:abstract )?(?:class|interface|type|const|function) (\w+)/gm),
  ].map(([, one = '']) => one)
  return [...lists, ...single]
}

interface Group {
  readonly text: string
  readonly of: RegExp
  readonly collapsed?: boolean
  /** Pages that are not in the order of the alphabet. @default the index */
  readonly first?: readonly string[]
}

const GROUPS: readonly Group[] = [
  { text: 'Start', of: /^(quick-start|which-lock|comparison)\.md$/, first: ['quick-start', 'which-lock'] },
  { text: 'Questions', of: /^questions\//, collapsed: true },
  { text: 'Guides', of: /^(cookbook|setup|concepts|guarantees|testing|capacity|performance|reliability)\.md$/ },
  { text: 'Stores', of: /^substrates\// },
  { text: 'Recipes', of: /^recipes\//, collapsed: true },
  { text: 'Operations', of: /^(checklist|errors)\.md$|^operations\// },
  { text: 'Reference', of: /^(reference|adapters|architecture)\.md$/ },
  { text: 'Packages', of: /^packages\//, collapsed: true },
  { text: 'Decisions', of: /^decisions\//, collapsed: true },
]

/** The pages of a group, in the order of the side bar. */
function pagesOf({ of, first }: Group, pages: readonly Page[]): Page[] {
  const all = pages.filter(({ path }) => of.test(path))
  const isFirst = ({ path }: Page): boolean => first?.includes(path.replace(/\.md$/, '')) ?? path.endsWith('index.md')
  const rank = (page: Page): number => (isFirst(page) ? 0 : 1)
  return all.toSorted((a, b) => rank(a) - rank(b))
}

function sidebarOf(pages: readonly Page[]): unknown[] {
  const groups = GROUPS.map((group) => ({
    text: group.text,
    ...(group.collapsed === undefined ? {} : { collapsed: group.collapsed }),
    items: pagesOf(group, pages).map(({ path, title }) => ({
      text: title,
      link: `/${path.replace(/(index)?\.md$/, '')}`,
    })),
  }))
  const api = { text: 'API', items: [{ text: 'All packages', link: '/api/' }] }
  return [...groups.slice(0, 7), api, ...groups.slice(7)]
}

/** What people read: source files are left to the repository. */
const isRead = ({ path }: Page): boolean => !path.startsWith('sources/') && path !== 'index.md'

/** The pages as Markdown, for programs that read: llmstxt.org. */
function llms(pages: readonly Page[]): string {
  const lists = GROUPS.map((group) => {
    const items = pagesOf(group, pages).map(({ path, title }) => `- [${title}](/${path})`)
    return `## ${group.text}\n\n${items.join('\n')}\n`
  })
  const head = '# lease\n\n> Leases and locks for Node.js on PostgreSQL, Redis, etcd and DynamoDB.\n'
  return [head, ...lists].join('\n')
}
