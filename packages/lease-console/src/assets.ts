/** The files of the page, as they are: they need no build. Read once, at the first request. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { respond } from './safety.ts'

const TYPES = {
  'actions.js': 'text/javascript',
  'app.js': 'text/javascript',
  'dom.js': 'text/javascript',
  'icon.svg': 'image/svg+xml',
  'lease.js': 'text/javascript',
  'list.js': 'text/javascript',
  'live.js': 'text/javascript',
  'style.css': 'text/css',
} as const

type Asset = keyof typeof TYPES

interface Loaded {
  readonly text: string
  readonly etag: string
}

const loaded = new Map<Asset, Promise<Loaded>>()

export function isAsset(name: string): name is Asset {
  return Object.hasOwn(TYPES, name)
}

/** A file of the page; 304 if the browser has it. */
export async function asset(name: Asset, request: Request): Promise<Response> {
  let file = loaded.get(name)
  if (file === undefined) {
    file = load(name)
    loaded.set(name, file)
    file.catch(() => loaded.delete(name))
  }
  const { text, etag } = await file
  const headers = { etag, 'cache-control': 'no-cache' }
  if (request.headers.get('if-none-match') === etag) return respond(304, undefined, headers)
  return respond(200, text, { ...headers, 'content-type': `${TYPES[name]}; charset=utf-8` })
}

async function load(name: Asset): Promise<Loaded> {
  // The same from `src` and from `dist`.
  const text = await readFile(new URL(`../src/page/${name}`, import.meta.url), 'utf8')
  return { text, etag: `"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"` }
}

/** The page: a shell without data, so that it loads also while the store is away. */
export function shell(basePath: string, environment: string | undefined): Response {
  const title = environment === undefined ? 'Leases' : `Leases · ${environment}`
  const html = `<!doctype html>
<html lang="en" data-base="${escaped(basePath)}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escaped(title)}</title>
<link rel="icon" href="${escaped(basePath)}/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="${escaped(basePath)}/style.css">
<script type="module" src="${escaped(basePath)}/app.js"></script>
</head>
<body>
<noscript>This page needs JavaScript. <code>lease list</code> shows the same in a terminal.</noscript>
</body>
</html>
`
  return respond(200, html, { 'content-type': 'text/html; charset=utf-8' })
}

function escaped(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}
