/** A real Chromium, and the pages that it shows. */
import { findChromium } from 'lease-servers'
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core'

/** @throws with what to do when there is no Chromium and none can be installed */
export async function launchChromium(): Promise<Browser> {
  const executablePath = await findChromium()
  // As root, and in most containers, Chromium cannot make its sandbox; it loads nothing but our own page.
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] })
}

/** A page in a window of its own, and what it must never do: fail, or ask anything of another host. */
export class Viewer implements AsyncDisposable {
  readonly page: Page
  /** Errors of the page's code, and refusals of its content security policy. */
  readonly failures: string[] = []
  /** Addresses outside of the console. */
  readonly foreign: string[] = []

  private constructor(page: Page, origin: string) {
    this.page = page
    page.on('pageerror', ({ message }) => this.failures.push(message))
    page.on('console', (entry) => {
      // A request that the console refuses, or that the test cuts off, is reported here too.
      if (entry.type() === 'error' && !entry.text().startsWith('Failed to load resource'))
        this.failures.push(entry.text())
    })
    page.on('request', (request) => {
      if (!request.url().startsWith(origin)) this.foreign.push(request.url())
    })
  }

  static async open(browser: Browser, origin: string, options: BrowserContextOptions = {}): Promise<Viewer> {
    const usual = { viewport: { width: 1180, height: 760 }, locale: 'en-GB', timezoneId: 'UTC' }
    const page = await (await browser.newContext({ ...usual, ...options })).newPage()
    page.setDefaultTimeout(0) // mocha's limit is the only one
    return new Viewer(page, origin)
  }

  /** Opens an address of the console, and waits until the page is live. */
  async go(url: string): Promise<void> {
    await this.page.goto(url)
    await this.page.waitForSelector('.status[data-state=live]')
  }

  /** The names of the leases in the list, in its order. */
  leases(): Promise<string[]> {
    return this.page.locator('a.lease').allTextContents()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.page.context().close()
  }
}
