/** The whole site, built and looked at. The matrix alone does it: VitePress and TypeDoc are 130 MB. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import { mkdir, readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { extname, join } from 'node:path'
import { expect } from 'chai'
import { findChromium, isMatrix } from 'lease-servers'
import { chromium, type Browser } from 'playwright-core'
import { buildSite, type Site } from '#src/build.ts'

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
}

async function serve(folder: string): Promise<{ readonly server: Server; readonly url: string }> {
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { pathname } = new URL(request.url ?? '/', 'http://site')
    const file = join(folder, pathname.endsWith('/') ? `${pathname}index.html` : decodeURI(pathname))
    const body = await readFile(file).catch(() => undefined)
    response
      .writeHead(body === undefined ? 404 : 200, { 'content-type': TYPES[extname(file)] ?? 'text/plain' })
      .end(body)
  }
  const server = createServer((request, response) => void answer(request, response))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

describe('the site', () => {
  if (!isMatrix()) {
    it.skip('is built and looked at (skipped: in test:matrix, for VitePress and TypeDoc are 130 MB)', () => {})
    return
  }

  let site: Site
  let server: Server
  let url: string
  let browser: Browser
  before(async function () {
    this.timeout(900_000) // the first time, npm installs the engine
    site = await buildSite()
    ;({ server, url } = await serve(site.folder))
    browser = await chromium.launch({ executablePath: await findChromium(), args: ['--no-sandbox'] })
  })
  after(async () => {
    await browser?.close()
    server?.close()
    await site?.[Symbol.asyncDispose]()
  })

  const text = (path: string): Promise<string> => readFile(join(site.folder, path), 'utf8')

  it('has a page of HTML for each page of Markdown, and the Markdown beside it', async () => {
    for (const { path } of site.pages) {
      expect(await text(path.replace(/\.md$/, '.html')), path).to.include('id="VPContent"')
      expect(await text(path), path).not.to.equal('')
    }
  })

  it('has each class of the API', async () => {
    expect(await text('api/lease-core/index.html')).to.include('id="manager"')
    expect((await text('api/lease-core/index.html')).replaceAll(/<[^>]*>/g, '')).to.include(
      'new MemoryGuard(() =&gt; accounts',
    )
    expect(await text('api/lease-core/testing.html')).to.include('id="faultysubstrate"')
    expect(await text('api/lease-postgres/index.html')).to.include('id="postgresclient"')
  })

  it('lists its pages in llms.txt, and each is there as Markdown', async () => {
    const links = [...(await text('llms.txt')).matchAll(/\]\((\/[^)]+)\)/g)].map(([, path = '']) => path)
    expect(links).to.include.members([
      '/quick-start.md',
      '/guarantees.md',
      '/questions/shutdown.md',
      '/substrates/postgres.md',
    ])
    for (const path of links) expect(await text(path)).to.match(/^# /m)
    expect(await text('llms-full.txt')).to.include('# Guarantees')
  })

  for (const [width, height] of [
    [1280, 900],
    [390, 844],
  ] as const) {
    for (const colorScheme of ['light', 'dark'] as const) {
      it(`is readable at a width of ${width}, ${colorScheme}`, async () => {
        const page = await browser.newPage({ viewport: { width, height }, colorScheme })
        const errors: string[] = []
        page.on('pageerror', (error) => errors.push(error.message))
        page.on('console', (message) => message.type() === 'error' && errors.push(message.text()))
        const pictures = process.env['LEASE_SITE_PICTURES'] // a folder for those who want to look themselves
        for (const path of [
          'index.html',
          'quick-start.html',
          'which-lock.html',
          'comparison.html',
          'api/lease-core/index.html',
        ]) {
          await page.goto(`${url}/${path}`, { waitUntil: 'networkidle' })
          await page.waitForFunction(() => '__vue_app__' in (document.querySelector('#app') ?? {})) // it is all there
          const isDark = await page.evaluate(() => document.documentElement.classList.contains('dark'))
          expect(isDark, path).to.equal(colorScheme === 'dark')
          // The page itself never scrolls sideways: wide tables and code do, within.
          const overflow = await page.evaluate(
            () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
          )
          expect(overflow, path).to.equal(0)
          if (pictures !== undefined) {
            await mkdir(pictures, { recursive: true })
            const name = path.replace(/\.html$/, '').replaceAll('/', '-')
            await page.screenshot({ path: join(pictures, `${name}-${width}-${colorScheme}.png`) })
          }
        }
        await page.goto(`${url}/index.html`)
        if (width > 1000) {
          const all = await page.evaluate(() => document.documentElement.scrollHeight)
          expect(all, 'home fits into one screen').to.be.at.most(height)
        }
        expect(errors).to.deep.equal([])
        await page.close()
      })
    }
  }

  it('finds a word of docs/ by the search of its own', async () => {
    const page = await browser.newPage()
    await page.goto(`${url}/index.html`, { waitUntil: 'networkidle' })
    await page.keyboard.press('Control+k')
    await page.locator('#localsearch-input').fill('fencing gate')
    await page.locator('.results .result').first().waitFor()
    expect(await page.locator('.results').innerText()).to.match(/Fencing gate/)
    await page.close()
  })

  it('leads from every link of a page to a page that is there', async () => {
    const dead: string[] = []
    const known = new Map<string, boolean>()
    const isThere = async (path: string): Promise<boolean> => {
      let there = known.get(path)
      if (there === undefined) {
        there = (await fetch(url + path)).ok
        known.set(path, there)
      }
      return there
    }
    for (const { path } of site.pages) {
      const from = `/${path.replace(/\.md$/, '.html')}`
      for (const [, target = ''] of (await text(from)).matchAll(/<a [^>]*href="([^"#]+)/g)) {
        if (/^(https?|mailto):/.test(target)) continue
        if (!(await isThere(new URL(target, url + from).pathname))) dead.push(`${from}: ${target}`)
      }
    }
    expect(dead).to.deep.equal([])
  })
})
