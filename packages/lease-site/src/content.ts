/**
 * The pages of the site, as Markdown: those of `docs/` as they are, those of this package, the README of each package, and a page for each
 * source file that one of them links to. Only links change: what leads to a file of the repository leads to its page.
 */
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import { basename, dirname, extname, join, posix } from 'node:path'

/** A page: where it is on the site, and its Markdown. */
export interface Page {
  /** For instance `recipes/lead.md`. */
  readonly path: string
  readonly title: string
  readonly text: string
  /** The file that it was made from, from the root of the repository. */
  readonly source: string
}

export interface Content {
  readonly pages: readonly Page[]
  /** Links that lead nowhere: `docs/x.md: y.md`. */
  readonly dead: readonly string[]
}

/** The pages that are written for the site. */
const OWN = 'packages/lease-site/pages'
const PACKAGES = 'packages'
const LANGUAGES: Readonly<Record<string, string>> = {
  '.mjs': 'js',
  '.yaml': 'yaml',
  '.prisma': 'prisma',
  '.svg': 'xml',
}
const PICTURES = /\.(png|svg)$/

/** @param root the folder of the repository */
export function content(root: string): Content {
  const pages = new Map<string, Page>()
  const dead: string[] = []
  const waiting = [
    ...markdownIn(root, OWN),
    ...markdownIn(root, 'docs'),
    'README.md',
    ...published(root).map((name) => `${PACKAGES}/${name}/README.md`),
  ]
  for (const source of waiting) {
    const path = pathOf(source)
    if (pages.has(path)) continue
    const page = pageOf(root, source, (target) => {
      if (!waiting.includes(target)) waiting.push(target)
    })
    pages.set(path, page.page)
    dead.push(...page.dead)
  }
  for (const { text, source } of pages.values()) dead.push(...deadAnchors(source, text, pages))
  return { pages: [...pages.values()], dead }
}

/** The packages that npm has. */
export function published(root: string): string[] {
  return readdirSync(join(root, PACKAGES)).filter((name) => {
    const manifest = join(root, PACKAGES, name, 'package.json')
    return existsSync(manifest) && !readFileSync(manifest, 'utf8').includes('"private": true')
  })
}

function markdownIn(root: string, folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`
    if (entry.isDirectory())
      return entry.name === 'node_modules' || entry.name === '.test-js' ? [] : markdownIn(root, path)
    return entry.name.endsWith('.md') ? [path] : []
  })
}

/** Where the page of this file is. */
function pathOf(source: string): string {
  if (source.startsWith(`${OWN}/`)) return source.slice(OWN.length + 1)
  if (source === 'README.md') return 'readme.md'
  const readme = /^packages\/([^/]+)\/README\.md$/.exec(source)
  if (readme !== null) return `packages/${readme[1]}.md`
  if (source.endsWith('.md')) return source.replace(/^docs\//, '').replace(/README\.md$/, 'index.md')
  return `sources/${source}.md`
}

function pageOf(root: string, source: string, wanted: (target: string) => void): { page: Page; dead: string[] } {
  const path = pathOf(source)
  if (statSync(join(root, source)).isDirectory()) {
    const files = readdirSync(join(root, source)).filter((name) => !/^(node_modules|dist|\.test-js|\.)/.test(name))
    const text = `# ${source}\n\nFiles of this folder:\n\n${files.map((name) => `- \`${name}\``).join('\n')}\n`
    return { page: { path, title: source, text, source }, dead: [] }
  }
  const raw = readFileSync(join(root, source), 'utf8')
  if (!source.endsWith('.md')) {
    const extension = extname(source)
    const language = LANGUAGES[extension] ?? extension.slice(1)
    const text = `# ${basename(source)}\n\n\`${source}\`\n\n\`\`\`\`${language}\n${raw.trimEnd()}\n\`\`\`\`\n`
    return { page: { path, title: source, text, source }, dead: [] }
  }
  const dead: string[] = []
  const link = (target: string): string => {
    const [file, anchor] = target.split('#') as [string, string?]
    if (file === '' || /^(https?:|mailto:|\/)/.test(target)) return target
    const found = posix.normalize(posix.join(dirname(source), decodeURI(file))).replace(/\/$/, '')
    if (!existsSync(join(root, found))) {
      dead.push(`${source}: ${target}`)
      return target
    }
    if (PICTURES.test(found)) return `/${found}`
    const index = `${found}/README.md`
    const goal = existsSync(join(root, index)) ? index : found
    wanted(goal)
    return `/${pathOf(goal)}${anchor === undefined ? '' : `#${anchor}`}`
  }
  const snippet = (all: string, target: string, label: string): string => {
    const file = join(root, dirname(source), target)
    if (!existsSync(file)) {
      dead.push(`${source}: ${target}`)
      return all
    }
    return `\`\`\`${extname(target).slice(1)} ${label}\n${readFileSync(file, 'utf8').trimEnd()}\n\`\`\``
  }
  const whole = raw.replaceAll(/^<<< (\S+) (\[.+\])$/gm, snippet)
  const text = outsideOfCode(whole, (prose) =>
    prose
      .replaceAll(/<!--[^]*?-->\n?/g, '')
      .replaceAll(/\]\(([^)\s]+)\)/g, (_, target: string) => `](${link(target)})`)
      .replaceAll(/<(?!br>|https?:)/g, '&lt;'),
  )
  const title = /^# (.+)$/m.exec(text)?.[1] ?? /^title: (.+)$/m.exec(text)?.[1] ?? path
  return { page: { path, title: title.replaceAll('`', ''), text, source }, dead }
}

/** Changes what is neither a block of code nor code within a line, nor the front matter. */
function outsideOfCode(text: string, change: (prose: string) => string): string {
  const code = /(^---\n[^]*?\n---\n)|(^ *(```+)[^]*?^ *\3 *$)|((`+)[^`][^]*?\5)/gm
  let made = ''
  let from = 0
  const links: string[] = []
  // Links keep their code: [`name`](page.md) is one piece of prose.
  const held = text.replaceAll(code, (all) => `\0${links.push(all) - 1}\0`)
  made = change(held)
  for (;;) {
    const at = made.indexOf('\0', from)
    if (at < 0) return made
    const end = made.indexOf('\0', at + 1)
    const piece = links[Number(made.slice(at + 1, end))] ?? ''
    made = made.slice(0, at) + piece + made.slice(end + 1)
    from = at + piece.length
  }
}

/**
 * Makes fenced TypeScript of the indented examples of doc comments. TypeDoc escapes what is no fenced code, so without this an example
 * would show `=\>` for `=>`, without colours, and be as wide as its longest line.
 */
export function fenceExamples(markdown: string): string {
  return outsideOfCode(markdown, (prose) =>
    prose.replaceAll(/(?<=^(?! *(?:[-*]|\d+\.) ).*\n\n)(?: {4}(?![-*] |\d+\. ).*\n)+/gm, (example) => {
      const code = example.replaceAll(/^ {4}/gm, '').replaceAll(/\\([{}<>])/g, '$1')
      return `\`\`\`ts\n${code}\`\`\`\n`
    }),
  )
}

/** As GitHub makes them, and `engine/config.mjs`. */
export const slugOf = (heading: string): string =>
  heading
    .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\p{M}\s_-]/gu, '')
    .replaceAll(/\s/g, '-')

function anchorsOf(text: string): ReadonlySet<string> {
  const prose = text.replaceAll(/^ *(```+)[^]*?^ *\1 *$/gm, '')
  return new Set([...prose.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) => slugOf(heading)))
}

function deadAnchors(source: string, text: string, pages: ReadonlyMap<string, Page>): string[] {
  const own = pathOf(source)
  return [...text.replaceAll(/^ *(```+)[^]*?^ *\1 *$/gm, '').matchAll(/\]\((\/[^)#\s]+\.md)?#([^)\s]+)\)/g)].flatMap(
    ([, path, anchor = '']) => {
      const page = pages.get(path?.slice(1) ?? own)
      if (page === undefined || page.path.startsWith('sources/')) return []
      return anchorsOf(page.text).has(decodeURI(anchor)) ? [] : [`${source}: ${path ?? ''}#${anchor}`]
    },
  )
}
