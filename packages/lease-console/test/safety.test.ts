import { expect } from 'chai'
import type { ConsoleAction, Permission } from 'lease-console'
import { Fleet } from './fleet.ts'
import { ALLOWED, get, ORIGIN, OWN, post } from './requests.ts'

const REVOKE = { namespace: 'billing', lease: 'invoices', fencingToken: '1', confirm: 'invoices' }
const PATHS = [
  '/',
  '/app.js',
  '/style.css',
  '/icon.svg',
  '/api/console',
  '/api/leases?namespace=billing',
  '/health',
  '/none',
]

describe('the safety of a console', () => {
  let fleet: Fleet

  beforeEach(async () => {
    fleet = new Fleet()
    await fleet.claim('invoices', 'worker-1', 30_000, 'hush')
  })
  afterEach(() => fleet[Symbol.asyncDispose]())

  const holderNow = async (): Promise<string | undefined> => (await fleet.workers.find('invoices'))?.holder

  describe('cross-site requests', () => {
    const without = (name: string): Record<string, string> => {
      const { [name]: _, ...rest } = OWN
      return rest
    }
    const refused: Readonly<Record<string, Record<string, string>>> = {
      'has no header of the console': without('x-lease-console'),
      'is a form': { ...OWN, 'content-type': 'application/x-www-form-urlencoded' },
      'is plain text': { ...OWN, 'content-type': 'text/plain' },
      'comes from another site': { ...OWN, 'sec-fetch-site': 'cross-site', origin: 'https://evil.test' },
      'comes from a sibling domain': { ...OWN, 'sec-fetch-site': 'same-site', origin: 'http://evil.console.test' },
      'has another Origin, in an old browser': { ...without('sec-fetch-site'), origin: 'https://evil.test' },
      'has another port as Origin, in an old browser': { ...without('sec-fetch-site'), origin: `${ORIGIN}:8080` },
      'comes from a sandboxed frame, in an old browser': { ...without('sec-fetch-site'), origin: 'null' },
    }
    for (const [title, headers] of Object.entries(refused)) {
      it(`a POST is refused if it ${title}`, async () => {
        const { status, body } = await post(fleet.console(ALLOWED), '/api/revoke', REVOKE, headers)
        expect(status).to.equal(403)
        expect(body.error).to.include('nothing was done')
        expect(await holderNow()).to.equal('worker-1')
      })
    }

    const accepted: Readonly<Record<string, Record<string, string>>> = {
      'comes from the page': OWN,
      'comes from the page in an old browser': without('sec-fetch-site'),
      'comes through a proxy that ends TLS and renames the host': { ...OWN, origin: 'https://console.example' },
      'comes from a program without an origin': { 'content-type': 'application/json', 'x-lease-console': '1' },
    }
    for (const [title, headers] of Object.entries(accepted)) {
      it(`a POST is accepted if it ${title}`, async () => {
        expect((await post(fleet.console(ALLOWED), '/api/revoke', REVOKE, headers)).status).to.equal(200)
        expect(await holderNow()).to.equal(undefined)
      })
    }

    it('a read by another site is refused, and a link from there is followed', async () => {
      const cross = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'cors' }
      expect((await get(fleet.console(), '/api/leases?namespace=billing', cross)).status).to.equal(403)
      const link = new Request(`${ORIGIN}/`, {
        headers: { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' },
      })
      expect((await fleet.console()(link)).status).to.equal(200)
    })
  })

  it('every response forbids frames, foreign scripts and other origins', async () => {
    for (const path of PATHS) {
      const { headers } = await fleet.console()(new Request(ORIGIN + path))
      expect(headers.get('content-security-policy'), path).to.match(/^default-src 'self';.*frame-ancestors 'none'/)
      expect(headers.get('x-frame-options'), path).to.equal('DENY')
      expect(headers.get('x-content-type-options'), path).to.equal('nosniff')
      expect(
        [...headers.keys()].filter((name) => name.startsWith('access-control')),
        path,
      ).to.deep.equal([])
    }
  })

  it('a read-only console refuses every action with 405', async () => {
    const console = fleet.console({ authorize: () => true })
    for (const path of ['/api/revoke', '/api/pin', '/api/unpin']) {
      const { status, headers, body } = await post(console, path, { ...REVOKE, entity: 'dana' })
      expect(status).to.equal(405)
      expect(headers.get('allow')).to.equal('GET, HEAD')
      expect(body.error).to.include('read-only')
    }
    expect(await holderNow()).to.equal('worker-1')
    expect((await fleet.workers.pinned()).size).to.equal(0)
  })

  it('answers no other method', async () => {
    for (const method of ['OPTIONS', 'PUT', 'DELETE', 'POST']) {
      const response = await fleet.console(ALLOWED)(new Request(`${ORIGIN}/api/leases?namespace=billing`, { method }))
      expect(response.status, method).to.equal(405)
    }
    expect((await fleet.console(ALLOWED)(new Request(`${ORIGIN}/api/revoke`))).status).to.equal(405)
    const head = await fleet.console()(new Request(ORIGIN, { method: 'HEAD' }))
    expect([head.status, await head.text()]).to.deep.equal([200, ''])
  })

  describe('authorize', () => {
    /** A console that writes down what it was asked, and answers by this. */
    function asking(answer: (action: ConsoleAction) => Permission): {
      console: ReturnType<Fleet['console']>
      asked: ConsoleAction[]
    } {
      const asked: ConsoleAction[] = []
      const authorize = (_: Request, action: ConsoleAction): Permission => {
        asked.push(action)
        return answer(action)
      }
      return { console: fleet.console({ readOnly: false, authorize }), asked }
    }

    it('decides on each request, with what it wants', async () => {
      const { console, asked } = asking(() => true)
      await console(new Request(`${ORIGIN}/`))
      await console(new Request(`${ORIGIN}/app.js`))
      await get(console, '/api/leases?namespace=billing')
      await get(console, '/api/lease?namespace=billing&lease=invoices')
      await get(console, '/health')
      await post(console, '/api/revoke', REVOKE)
      const all = { namespace: undefined, lease: undefined }
      expect(asked).to.deep.equal([
        { kind: 'view', ...all },
        { kind: 'view', ...all },
        { kind: 'view', ...all, namespace: 'billing' },
        { kind: 'view', namespace: 'billing', lease: 'invoices' },
        { kind: 'health' },
        { kind: 'view' },
        { kind: 'revoke', namespace: 'billing', lease: 'invoices', fencingToken: 1n },
      ])
    })

    it('hides: what is hidden answers like what does not exist, and nothing is read', async () => {
      const { console } = asking(() => false)
      fleet.substrate.resetCounts()
      for (const path of [...PATHS, '/events?namespace=billing', '/api/lease?namespace=billing&lease=invoices']) {
        const { status, body } = await get(console, path)
        expect([status, body], path).to.deep.equal([404, { error: 'there is nothing here' }])
      }
      for (const path of ['/api/revoke', '/api/pin', '/api/none']) {
        expect((await post(console, path, REVOKE)).status, path).to.equal(404)
      }
      expect(fleet.substrate.counts.roundTrips).to.equal(0)
      expect(await holderNow()).to.equal('worker-1')
    })

    it('hides a namespace, also from the list of namespaces', async () => {
      const authorize = (_: Request, action: ConsoleAction): boolean =>
        !('namespace' in action) || action.namespace !== 'b'
      const console = fleet.console({ managers: { a: fleet.manager, b: fleet.manager }, authorize })
      expect((await get(console, '/api/console')).body).to.deep.include({ namespaces: ['a'] })
      const hidden = await get(console, '/api/leases?namespace=b')
      const missing = await get(console, '/api/leases?namespace=c')
      expect([hidden.status, hidden.body]).to.deep.equal([missing.status, missing.body])
    })

    it('lets a viewer look and not act', async () => {
      const { console } = asking(({ kind }) => kind === 'view')
      expect((await get(console, '/api/leases?namespace=billing')).status).to.equal(200)
      expect((await post(console, '/api/revoke', REVOKE)).status).to.equal(404)
      expect(await holderNow()).to.equal('worker-1')
    })

    it('may answer itself, for instance with a redirect to a login', async () => {
      const { console } = asking(() => Response.redirect('https://login.test/', 302))
      const response = await console(new Request(`${ORIGIN}/`))
      expect([response.status, response.headers.get('location')]).to.deep.equal([302, 'https://login.test/'])
    })

    it('refuses everything when it throws, or answers with nonsense', async () => {
      const warnings: unknown[] = []
      const note = (warning: unknown): number => warnings.push(warning)
      process.on('warning', note)
      const failing = fleet.console({
        ...ALLOWED,
        authorize: () => {
          throw new Error('the directory is away')
        },
      })
      const { status, body } = await post(failing, '/api/revoke', REVOKE)
      expect(status).to.equal(500)
      expect(body.error).not.to.include('directory')
      await new Promise((resolve) => setImmediate(resolve))
      process.off('warning', note)
      expect(String(warnings)).to.include('the directory is away')
      for (const nonsense of [undefined, null, 'yes', 1, {}, { who: 1 }, { who: '' }]) {
        const { console } = asking(() => nonsense as unknown as Permission)
        expect((await get(console, '/api/leases?namespace=billing')).status).to.equal(404)
      }
      expect(await holderNow()).to.equal('worker-1')
    })
  })

  it('hostile names and values leave the server only as JSON, and the environment escaped', async () => {
    const hostile = '<script>alert(1)</script>"&\''
    await fleet.claim('"><img/src=x>', '<svg/onload=alert(1)>', 30_000, hostile)
    const console = fleet.console({ environment: hostile, showValues: true })
    const response = await console(new Request(`${ORIGIN}/api/leases?namespace=billing&values=true`))
    expect(response.headers.get('content-type')).to.equal('application/json; charset=utf-8')
    const { rows } = (await response.json()) as { rows: readonly { lease: string; value: string }[] }
    expect(rows.find(({ lease }) => lease === '"><img/src=x>')?.value).to.equal(hostile)
    const page = await (await console(new Request(ORIGIN))).text()
    expect(page).not.to.include('<script>alert')
    expect(page).to.include('&#60;script&#62;alert(1)')
  })

  it('a console under a path answers nothing outside of it', async () => {
    const console = fleet.console({ basePath: '/ops/leases' })
    for (const path of ['/', '/ops', '/ops/leasesx', '/app.js', '/ops/leases/none']) {
      expect((await console(new Request(ORIGIN + path))).status, path).to.equal(404)
    }
    const page = await (await console(new Request(`${ORIGIN}/ops/leases`))).text()
    expect(page).to.include('src="/ops/leases/app.js"')
    for (const path of ['/ops/leases/', '/ops/leases/app.js', '/ops/leases/health']) {
      expect((await console(new Request(ORIGIN + path))).status, path).to.equal(200)
    }
  })
})
