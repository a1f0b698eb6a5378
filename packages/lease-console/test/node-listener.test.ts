import { expect } from 'chai'
import { createServer, get as httpGet, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { serveConsole, toNodeListener } from 'lease-console'
import { until } from 'lease-servers'
import { Fleet } from './fleet.ts'
import { ALLOWED } from './requests.ts'

const ACTION = { 'content-type': 'application/json', 'x-lease-console': '1' }
const REVOKE = { namespace: 'billing', lease: 'invoices', fencingToken: '1', confirm: 'invoices' }

describe('a console on node:http', () => {
  let fleet: Fleet
  const closing: (() => Promise<void>)[] = []

  beforeEach(async () => {
    fleet = new Fleet()
    await fleet.claim('invoices', 'worker-1', 600_000)
  })
  afterEach(async () => {
    for (const close of closing.splice(0)) await close()
    await fleet[Symbol.asyncDispose]()
  })

  async function listen(listener: RequestListener): Promise<string> {
    const server = createServer(listener)
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    closing.push(async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    })
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  /** With a Host that `fetch` does not let one choose. */
  function statusFor(url: string, host: string): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      const request = httpGet(url, { headers: { host } }, (response) => {
        response.resume()
        resolve(response.statusCode)
      })
      request.on('error', reject)
    })
  }

  it('answers as it does without a server', async () => {
    const url = await listen(toNodeListener(fleet.console(ALLOWED)))
    expect(await (await fetch(url)).text()).to.match(/^<!doctype html>/)
    const revoked = await fetch(`${url}/api/revoke`, { method: 'POST', headers: ACTION, body: JSON.stringify(REVOKE) })
    expect(revoked.status).to.equal(200)
    expect(revoked.headers.get('x-frame-options')).to.equal('DENY')
  })

  it('sends events as they come, and stops reading when the viewer leaves', async () => {
    const url = await listen(toNodeListener(fleet.console()))
    const leaving = new AbortController()
    const response = await fetch(`${url}/events?namespace=billing`, { signal: leaving.signal })
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    let text = ''
    while (!text.includes('worker-1')) text += new TextDecoder().decode((await reader.read()).value)
    leaving.abort()
    await until('no viewer', async () => {
      const { viewers } = (await (await fetch(`${url}/health/complete`)).json()) as { viewers: number }
      return viewers === 0
    })
  })

  it('sees the whole path where a framework has cut it off, as Express does', async () => {
    const inner = toNodeListener(fleet.console({ basePath: '/leases' }))
    const url = await listen((request, response) => {
      const originalUrl = request.url ?? ''
      inner(Object.assign(request, { originalUrl, url: originalUrl.replace('/leases', '') || '/' }), response)
    })
    expect((await fetch(`${url}/leases/api/console`)).status).to.equal(200)
    expect((await fetch(`${url}/api/console`)).status).to.equal(404)
  })

  it('reads a body that a parser has read before', async () => {
    const inner = toNodeListener(fleet.console(ALLOWED))
    const url = await listen((request, response) => {
      let text = ''
      request.on('data', (chunk: Buffer) => (text += chunk.toString()))
      request.on('end', () => inner(Object.assign(request, { body: JSON.parse(text) as unknown }), response))
    })
    const revoked = await fetch(`${url}/api/revoke`, { method: 'POST', headers: ACTION, body: JSON.stringify(REVOKE) })
    expect(revoked.status).to.equal(200)
  })

  it('refuses a browser that sends an action from another site', async () => {
    const url = await listen(toNodeListener(fleet.console(ALLOWED)))
    const headers = { ...ACTION, origin: 'https://evil.test' }
    const refused = await fetch(`${url}/api/revoke`, { method: 'POST', headers, body: JSON.stringify(REVOKE) })
    expect(refused.status).to.equal(403)
    const own = await fetch(`${url}/api/revoke`, {
      method: 'POST',
      headers: { ...ACTION, origin: url },
      body: JSON.stringify(REVOKE),
    })
    expect(own.status).to.equal(200)
  })

  it('answers 400 to an address that is none', async () => {
    const url = await listen(toNodeListener(fleet.console()))
    expect(await statusFor(url, 'not a host')).to.equal(400)
  })

  describe('of its own', () => {
    it('listens on 127.0.0.1, and answers to no other name', async () => {
      await using served = await serveConsole(fleet.console())
      expect(served.url).to.equal(`http://127.0.0.1:${served.port}`)
      expect(await statusFor(served.url, `localhost:${served.port}`)).to.equal(200)
      expect(await statusFor(served.url, `rebound.evil.test:${served.port}`)).to.equal(421)
    })

    it('says what is wrong with a port that is taken, or is none', async () => {
      await using served = await serveConsole(fleet.console())
      const messageOf = (port: number): Promise<string> =>
        serveConsole(fleet.console(), { port }).then(
          () => 'it listens',
          (error: unknown) => (error as Error).message,
        )
      expect(await messageOf(served.port)).to.include('another program listens there: choose another port')
      expect(await messageOf(70_000)).to.include('port must be a whole number from 0 to 65535')
    })

    it('closes with its viewers', async () => {
      const served = await serveConsole(fleet.console())
      const response = await fetch(`${served.url}/events?namespace=billing`)
      await served.close()
      await served.close()
      // The stream ends, or breaks with its connection.
      await response.text().catch(() => {})
      const refused = await fetch(served.url).catch((error: Error) => error.cause)
      expect(refused).to.have.property('code', 'ECONNREFUSED')
    })
  })
})
