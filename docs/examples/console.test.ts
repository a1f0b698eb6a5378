import { expect } from 'chai'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import express from 'express'
import { fastify } from 'fastify'
import { Hono } from 'hono'
import Koa from 'koa'
import { serveConsole, toNodeListener, type LeaseConsole, type OperatorAction } from 'lease-console'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { onExpress, onFastify, onHono, onKoa, onNode, operatorsConsole, readOnlyConsole } from './console.ts'

const sessions = new Map([
  ['session=dana', { user: 'dana', isOperator: true }],
  ['session=eve', { user: 'eve', isOperator: false }],
])

describe('example: a console within a server', () => {
  let manager: Manager
  let console: LeaseConsole
  let written: OperatorAction[]
  let servers: Server[]

  beforeEach(async () => {
    manager = new Manager({ client: memoryClient({ store: new MemoryStore() }) })
    await manager.claim('invoices', 'worker-1', { minutes: 5 })
    written = []
    servers = []
    console = operatorsConsole(
      manager,
      async ({ headers }) => sessions.get(headers.get('cookie') ?? ''),
      (action) => written.push(action),
    )
  })
  afterEach(async () => {
    await console.close()
    for (const server of servers) server.closeAllConnections()
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
    await manager.stop()
  })

  async function listen(server: Server): Promise<string> {
    servers.push(server)
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  /** The page, a list, and a revocation, by an operator; then the other addresses of the application. */
  async function check(url: string): Promise<void> {
    const as = (user: string): { cookie: string } => ({ cookie: `session=${user}` })
    const page = await fetch(`${url}/leases/`, { headers: as('dana') })
    expect(await page.text()).to.include('src="/leases/app.js"')
    const list = await fetch(`${url}/leases/api/leases?namespace=billing`, { headers: as('eve') })
    expect(await list.text()).to.include('"holder":"worker-1"')
    const revoke = async (user: string): Promise<number> => {
      const fencingToken = String((await manager.find('invoices'))?.fencingToken)
      const response = await fetch(`${url}/leases/api/revoke`, {
        method: 'POST',
        headers: { ...as(user), 'content-type': 'application/json', 'x-lease-console': '1' },
        body: JSON.stringify({ namespace: 'billing', lease: 'invoices', fencingToken, confirm: 'invoices' }),
      })
      return response.status
    }
    expect(await revoke('eve')).to.equal(404)
    expect(written).to.deep.equal([])
    expect(await revoke('dana')).to.equal(200)
    expect(written).to.have.length(1)
    expect(written[0]).to.include({ who: 'dana', what: 'revoke', lease: 'invoices', outcome: 'done' })
    const stranger = await fetch(`${url}/leases/`, { redirect: 'manual' })
    expect([stranger.status, new URL(stranger.headers.get('location') ?? '').pathname]).to.deep.equal([302, '/login'])
    expect(await (await fetch(`${url}/other`)).text()).to.equal('the application')
  }

  it('on node:http', async () => {
    await check(await listen(onNode(console, (_, response) => response.end('the application'))))
  })

  it('on Express, behind a parser of bodies', async () => {
    const app = express()
    app.use(express.json())
    onExpress(console, app)
    app.get('/other', (_, response) => void response.send('the application'))
    await check(await listen(createServer((request, response) => void app(request, response))))
  })

  it('on Hono', async () => {
    const app = new Hono()
    onHono(console, app)
    app.get('/other', (context) => context.text('the application'))
    await check(await listen(createServer(toNodeListener(async (request) => app.fetch(request)))))
  })

  it('on Fastify', async () => {
    const app = fastify()
    onFastify(console, app)
    app.get('/other', async () => 'the application')
    await app.ready()
    servers.push(app.server)
    await check(await app.listen({ port: 0, host: '127.0.0.1' }))
  })

  it('on Koa', async () => {
    const app = new Koa()
    onKoa(console, app)
    app.use((context) => void (context.body = 'the application'))
    await check(await listen(createServer((request, response) => void app.callback()(request, response))))
  })

  it('alone on 127.0.0.1, to look only', async () => {
    await using served = await serveConsole(readOnlyConsole(manager))
    const response = await fetch(`${served.url}/api/leases?namespace=billing`)
    expect(await response.text()).to.include('"lease":"invoices"')
  })
})
