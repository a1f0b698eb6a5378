/**
 * The page in a real Chromium, which takes longer to install than the rest of the tests of this package to run: in the matrix. With
 * LEASE_PICTURES=write it also writes the pictures of the documentation.
 */
import { expect } from 'chai'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { isMatrix, until } from 'lease-servers'
import type { Browser, BrowserContextOptions } from 'playwright-core'
import { launchChromium, Viewer } from './browser.ts'
import { Fleet, someWork } from './fleet.ts'
import { ALLOWED } from './requests.ts'

const POLL_MS = 2_000
/** However often a slow browser makes a test advance the clock, a lease of this duration stands. */
const WEEK_MS = 7 * 24 * 3_600_000
const HOSTILE = '<img/src=x/onerror=alert(1)>"&amp;'

const describeInMatrix = isMatrix() ? describe : describe.skip

describeInMatrix('the page of a console in Chromium', () => {
  let browser: Browser
  let fleet: Fleet
  let viewers: Viewer[]

  before(async function () {
    this.timeout(600_000) // it may have to be installed
    browser = await launchChromium()
  })
  after(() => browser.close())
  beforeEach(async () => {
    viewers = []
    fleet = new Fleet()
    await someWork(fleet)
  })
  afterEach(async () => {
    for (const viewer of viewers) await viewer[Symbol.asyncDispose]()
    await fleet[Symbol.asyncDispose]()
    for (const { failures, foreign } of viewers) expect([failures, foreign]).to.deep.equal([[], []])
  })

  async function open(url: string, options?: BrowserContextOptions): Promise<Viewer> {
    const viewer = await Viewer.open(browser, new URL(url).origin, options)
    viewers.push(viewer)
    return viewer
  }

  it('lists, filters, changes live, and revokes the term on screen after its name was typed', async () => {
    const url = await fleet.serve({ ...ALLOWED, environment: 'production' })
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(url)
    await until('the whole list', async () => (await viewer.leases()).length === 11)
    expect(await page.textContent('.badge')).to.equal('production')
    const row = page.locator('tr', { hasText: 'leader/payments' })
    expect(await row.locator('td').allTextContents()).to.deep.include('payments-7f9c-x2kd')

    await page.fill('#filter', 'payouts')
    await until('the filtered list', async () => (await viewer.leases()).join() === 'payouts/eu,payouts/us')
    await fleet.claim('payouts/uk', 'worker-30', WEEK_MS)
    await until('the new lease', async () => {
      await fleet.clock.advance(POLL_MS)
      return (await viewer.leases()).includes('payouts/uk')
    })

    await page.click('a.lease >> text=payouts/uk')
    await page.click('text=Revoke this term…')
    await page.fill('#confirm', 'payouts/u')
    expect(await page.isDisabled('dialog .danger')).to.equal(true)
    await page.fill('#confirm', 'payouts/uk')
    await page.click('dialog .danger')
    await page.waitForSelector('.result[data-ok=true]')
    expect(await page.textContent('.result')).to.match(/worker-30 may go on relying on it for at most \d+ hours/)
    await page.waitForSelector('.pill[data-state=vacant]')
    expect(await page.textContent('.changes')).to.include('The term of worker-30 ended')
    expect(await fleet.workers.find('payouts/uk')).to.equal(undefined)
  })

  it('sorts, changes views and pages, and each has an address', async () => {
    await fleet.claimMany(10_000)
    const url = await fleet.serve()
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(url)
    const first = async (lease: string): Promise<void> =>
      void (await until(`${lease} first`, async () => (await viewer.leases())[0] === lease))
    await first('account-000000')
    expect(await page.textContent('.count')).to.equal('10,011 held leases')
    await page.click('text=Next ›')
    await first('account-000050')
    expect(await page.textContent('.range')).to.equal('51–100 of 10,011')
    await page.click('button.sort >> text=Lease')
    await first('search/reindex')
    await page.click('.tabs >> text=Held longest')
    await first('search/reindex')
    await page.click('.tabs >> text=Pinned')
    await first('ledger/close-2026-02')
    expect((await viewer.leases()).length).to.equal(2)
    await page.goBack()
    await first('search/reindex')
    await page.reload()
    await first('search/reindex')
    expect(page.url()).to.include('view=longest')
  })

  it('shows hostile names and values as text', async () => {
    await fleet.claim(HOSTILE, `${HOSTILE}2`, 600_000, HOSTILE)
    await fleet.workers.pin(HOSTILE, `${HOSTILE}3`)
    const url = await fleet.serve({ ...ALLOWED, showValues: true, environment: HOSTILE.slice(0, 40) })
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(`${url}/?namespace=billing&filter=onerror&values=true`)
    await until('the lease', async () => (await viewer.leases()).includes(HOSTILE))
    expect(await page.textContent('.value')).to.equal(HOSTILE)
    await page.click('a.lease')
    await page.waitForSelector('h1')
    expect(await page.textContent('h1')).to.equal(HOSTILE)
    await page.click('text=Revoke this term…')
    expect(await page.textContent('dialog code')).to.equal(HOSTILE)
    expect(await page.locator('img').count()).to.equal(0)
    expect(await page.title()).to.include(HOSTILE)
  })

  it('shows values only after they were asked for', async () => {
    const url = await fleet.serve({ showValues: true })
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(`${url}/?namespace=billing&filter=invoices`)
    await until('the lease', async () => (await viewer.leases()).length === 1)
    expect(await page.content()).not.to.include('batch 118')
    await page.click('text=Show values')
    await page.waitForSelector('text=batch 118 of 240')
  })

  it('offers no action when it is read-only', async () => {
    const url = await fleet.serve()
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(`${url}/?namespace=billing&lease=invoices`)
    await page.waitForSelector('text=This console is read-only.')
    expect(await page.locator('main button').count()).to.equal(0)
    const status = await page.evaluate(async () => {
      const body = JSON.stringify({ namespace: 'billing', lease: 'invoices', fencingToken: '6', confirm: 'invoices' })
      const headers = { 'content-type': 'application/json', 'x-lease-console': '1' }
      return (await fetch('/api/revoke', { method: 'POST', headers, body })).status
    })
    expect(status).to.equal(405)
    expect((await fleet.workers.find('invoices'))?.holder).to.equal('worker-14')
  })

  it('no other site can act, read, or put the page into a frame', async () => {
    const url = await fleet.serve(ALLOWED)
    const evil = createServer((_, response) => response.end('<!doctype html><title>evil</title>'))
    await new Promise<void>((resolve) => evil.listen(0, '127.0.0.1', resolve))
    try {
      const { port } = evil.address() as AddressInfo
      // Another port of the same site, and another site.
      for (const host of ['127.0.0.1', 'localhost']) {
        const viewer = await Viewer.open(browser, '')
        const { page } = viewer
        await page.goto(`http://${host}:${port}/`)
        const body = JSON.stringify({ namespace: 'billing', lease: 'invoices', fencingToken: '6', confirm: 'invoices' })
        const headers = { 'content-type': 'application/json', 'x-lease-console': '1' }
        const requests = [
          ['/api/revoke', { method: 'POST', headers, body }],
          [
            '/api/revoke',
            { method: 'POST', mode: 'no-cors' as const, headers: { 'content-type': 'text/plain' }, body },
          ],
          ['/api/leases?namespace=billing', {}],
        ] as const
        const outcomes: string[] = []
        for (const [path, init] of requests) {
          const type = page.evaluate(async ([to, how]) => (await fetch(to, how)).type, [url + path, init] as const)
          outcomes.push(await type.catch(() => 'refused'))
        }
        expect(outcomes).to.deep.equal(['refused', 'refused', 'refused'])
        await page.evaluate((target) => {
          const frame = document.createElement('iframe')
          frame.src = target
          document.body.append(frame)
        }, url)
        await until('the refused frame', () => page.frames().some((frame) => frame.url().startsWith('chrome-error:')))
        await viewer[Symbol.asyncDispose]()
      }
      expect((await fleet.workers.find('invoices'))?.holder).to.equal('worker-14')
    } finally {
      await new Promise((resolve) => evil.close(resolve))
    }
  })

  it('refuses when the term changed while the name was typed', async () => {
    const url = await fleet.serve(ALLOWED)
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(`${url}/?namespace=billing&lease=invoices`)
    await page.click('text=Revoke this term…')
    await fleet.workers.revoke('invoices')
    await fleet.claim('invoices', 'worker-99', 600_000)
    await page.fill('#confirm', 'invoices')
    await page.press('#confirm', 'Enter')
    await page.waitForSelector('.result[data-ok=false]')
    expect(await page.textContent('.result')).to.include('worker-99 holds the lease now')
    expect((await fleet.workers.find('invoices'))?.holder).to.equal('worker-99')
  })

  it('pins and unpins', async () => {
    const url = await fleet.serve(ALLOWED)
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(`${url}/?namespace=billing&lease=invoices`)
    await page.click('text=Pin…')
    await page.fill('#entity', 'on-call')
    await page.fill('#confirm', 'invoices')
    await page.click('dialog .primary')
    await page.waitForSelector('.chip[data-entity=on-call]')
    expect((await fleet.workers.pinned()).get('invoices')).to.deep.equal(['on-call'])
    await page.click('text=Unpin…')
    await page.fill('#confirm', 'invoices')
    await page.press('#confirm', 'Enter')
    await page.waitForSelector('.chip', { state: 'detached' })
    expect((await fleet.workers.pinned()).has('invoices')).to.equal(false)
  })

  it('keeps its state in an outage, also after a reload, and goes on afterwards', async () => {
    const url = await fleet.serve()
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(url)
    await until('the list', async () => (await viewer.leases()).length === 11)
    fleet.substrate.reject(new Error('connect ECONNREFUSED 10.0.0.7:6379'))
    await until('the trouble', async () => {
      await fleet.clock.advance(POLL_MS)
      return page.isVisible('.trouble')
    })
    expect(await page.textContent('.trouble')).to.match(
      /The store does not answer: .*ECONNREFUSED.* What you see was read/,
    )
    await page.reload()
    await until('the last state', async () => (await viewer.leases()).length > 0)
    await page.waitForSelector('.trouble')
    fleet.substrate.heal()
    await fleet.claim('after-the-outage', 'worker-1', WEEK_MS)
    await until('the new state', async () => {
      await fleet.clock.advance(POLL_MS)
      return (await viewer.leases()).includes('after-the-outage')
    })
    await page.waitForSelector('.trouble', { state: 'hidden' })
  })

  it('polls where events do not get through', async () => {
    const url = await fleet.serve()
    const viewer = await open(url)
    const { page } = viewer
    await page.route('**/events?*', (route) => route.fulfill({ status: 502, body: 'no events here' }))
    await page.goto(url)
    await page.waitForSelector('.status[data-state=polling]')
    await until('the list', async () => (await viewer.leases()).length === 11)
    await fleet.workers.revoke('invoices')
    await fleet.clock.advance(POLL_MS)
    await until('the change', async () => !(await viewer.leases()).includes('invoices'))
  })

  it('can be used with the keyboard alone, and keeps the focus while states arrive', async () => {
    for (const lease of ['crew/one', 'crew/two']) await fleet.claim(lease, 'worker-30', WEEK_MS)
    const url = await fleet.serve(ALLOWED)
    const viewer = await open(url)
    const { page } = viewer
    await viewer.go(url)
    await until('the list', async () => (await viewer.leases()).length === 13)
    await page.keyboard.press('/')
    await page.keyboard.type('crew')
    await until('the filtered list', async () => (await viewer.leases()).length === 2)
    await page.keyboard.press('Escape')
    await page.keyboard.press('j')
    await page.keyboard.press('j')
    const focused = (): Promise<string> => page.evaluate(() => document.activeElement?.textContent ?? '')
    expect(await focused()).to.equal('crew/two')
    await fleet.claim('crew/a', 'worker-30', WEEK_MS)
    await until('the new lease', async () => {
      await fleet.clock.advance(POLL_MS)
      return (await viewer.leases()).length === 3
    })
    expect(await focused()).to.equal('crew/two')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.pill[data-state=held]')
    await page.keyboard.press('r')
    await page.keyboard.type('crew/two')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.result[data-ok=true]')
    expect(await page.evaluate(() => document.activeElement?.className)).to.equal('result')
    await page.keyboard.press('Escape')
    await until('the list again', async () => (await viewer.leases()).length > 0)
  })

  for (const colorScheme of ['light', 'dark'] as const) {
    it(`fits into 320 px without scrolling sideways, and is readable (${colorScheme})`, async () => {
      await fleet.claim(`long/${'x'.repeat(200)}`, 'y'.repeat(200), 600_000)
      const url = await fleet.serve({ ...ALLOWED, environment: 'production' })
      const viewer = await open(url, { viewport: { width: 320, height: 640 }, colorScheme })
      const { page } = viewer
      const check = async (): Promise<void> => {
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).to.be.at.most(320)
        const colors = await page.evaluate(() => {
          const { color, backgroundColor } = getComputedStyle(document.body)
          return [color, backgroundColor] as const
        })
        const [text, paper] = [luminanceOf(colors[0]), luminanceOf(colors[1])]
        expect((Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05)).to.be.at.least(7)
        expect(paper < text).to.equal(colorScheme === 'dark')
      }
      await viewer.go(url)
      await until('the list', async () => (await viewer.leases()).length === 12)
      await check()
      await page.click('a.lease >> text=long/')
      await page.waitForSelector('.pill[data-state=held]')
      await check()
      await page.click('text=Revoke this term…')
      await check()
    })

    it(`looks as in the documentation (${colorScheme})`, async () => {
      const url = await fleet.serve({ ...ALLOWED, environment: 'production' })
      const picture = async (name: string, viewer: Viewer): Promise<void> => {
        const path = `docs/pictures/console-${name}-${colorScheme}.png`
        const isWanted = process.env['LEASE_PICTURES'] === 'write'
        const bytes = await viewer.page.screenshot({ animations: 'disabled', ...(isWanted && { path }) })
        expect(bytes.length).to.be.within(10_000, 120_000)
      }
      const list = await open(url, { viewport: { width: 980, height: 620 }, colorScheme })
      await list.go(`${url}/?namespace=billing`)
      await until('the list', async () => (await list.leases()).length === 11)
      await picture('list', list)
      const narrow = await open(url, { viewport: { width: 320, height: 620 }, colorScheme })
      await narrow.go(`${url}/?namespace=billing`)
      await until('the list', async () => (await narrow.leases()).length > 8)
      await picture('narrow', narrow)
      const lease = await open(url, { viewport: { width: 980, height: 620 }, colorScheme })
      await lease.go(`${url}/?namespace=billing&lease=migrations/billing`)
      await lease.page.waitForSelector('.pill[data-state=pinned]')
      await fleet.workers.pin('migrations/billing', 'on-call')
      await until('the change', async () => {
        await fleet.clock.advance(POLL_MS)
        return lease.page.isVisible('text=on-call pinned it.')
      })
      await lease.page.click('text=Revoke this term…')
      await picture('revoke', lease)
    })
  }
})

/** As the Web Content Accessibility Guidelines define it. @param color such as `rgb(16, 19, 23)` */
function luminanceOf(color: string): number {
  const [r = 0, g = 0, b = 0] = Array.from(color.matchAll(/[\d.]+/g), ([part]) => {
    const value = Number(part) / 255
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
  })
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}
