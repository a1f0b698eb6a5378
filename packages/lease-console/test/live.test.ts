import { expect } from 'chai'
import { until } from 'lease-servers'
import { Fleet } from './fleet.ts'
import { get, ORIGIN, type Answer, type Console } from './requests.ts'

/** What one viewer got, as a browser reads server-sent events. */
class Viewer {
  readonly status: number
  readonly comments: string[] = []
  readonly events: { readonly type: string; readonly data: Partial<Answer> }[] = []
  isOver = false
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>

  private constructor(response: Response) {
    this.status = response.status
    this.#reader = (response.body as ReadableStream<Uint8Array>).getReader()
    void this.#read()
  }

  static async open(console: Console, query: string): Promise<Viewer> {
    return new Viewer(await console(new Request(`${ORIGIN}/events?${query}`)))
  }

  /** The states, without those events that only say that the state is still the same. */
  get states(): readonly Partial<Answer>[] {
    return this.events.filter(({ type }) => type === 'state').map(({ data }) => data)
  }

  get last(): Partial<Answer> | undefined {
    return this.events.at(-1)?.data
  }

  async leave(): Promise<void> {
    await this.#reader.cancel()
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder()
    let text = ''
    for (;;) {
      const { done, value } = await this.#reader.read()
      if (done) break
      text += decoder.decode(value, { stream: true })
      const blocks = text.split('\n\n')
      text = blocks.pop() ?? ''
      for (const block of blocks) this.#take(block)
    }
    this.isOver = true
  }

  #take(block: string): void {
    if (block.startsWith(':')) this.comments.push(block)
    const { type, data } = /^event: (?<type>.*)\ndata: (?<data>.*)$/.exec(block)?.groups ?? {}
    if (type !== undefined && data !== undefined) this.events.push({ type, data: JSON.parse(data) as Partial<Answer> })
  }
}

const LIST = 'namespace=billing'
const ONE = 'namespace=billing&lease=invoices'

describe('the live events of a console', () => {
  let fleet: Fleet
  let viewers: Viewer[]

  beforeEach(async () => {
    fleet = new Fleet()
    viewers = []
    await fleet.claim('invoices', 'worker-1', 60_000)
  })
  afterEach(async () => {
    for (const viewer of viewers) await viewer.leave()
    await fleet[Symbol.asyncDispose]()
  })

  async function view(console: Console, query: string): Promise<Viewer> {
    const viewer = await Viewer.open(console, query)
    viewers.push(viewer)
    await fleet.clock.settle()
    return viewer
  }

  const holdersIn = (state: Partial<Answer> | undefined): readonly (string | undefined)[] =>
    (state?.rows ?? []).map(({ holder }) => holder)

  it('begin with the whole state, and carry each later one', async () => {
    const viewer = await view(fleet.console(), LIST)
    expect(holdersIn(viewer.states.at(-1))).to.deep.equal(['worker-1'])
    await fleet.claim('payouts', 'worker-2', 60_000)
    await fleet.clock.advance(2_000)
    expect(holdersIn(viewer.states.at(-1))).to.deep.equal(['worker-1', 'worker-2'])
    await fleet.workers.release('invoices', 'worker-1')
    await fleet.clock.advance(2_000)
    expect(holdersIn(viewer.states.at(-1))).to.deep.equal(['worker-2'])
  })

  it('begin with the whole state again after a reconnection', async () => {
    const console = fleet.console()
    const before = await view(console, LIST)
    await before.leave()
    await fleet.claim('payouts', 'worker-2', 60_000)
    await fleet.clock.advance(10_000)
    const after = await view(console, LIST)
    expect(holdersIn(after.states.at(-1))).to.deep.equal(['worker-1', 'worker-2'])
    expect(holdersIn(before.states.at(-1))).to.deep.equal(['worker-1'])
  })

  it('are fed by one read for all viewers, and by none without viewers', async () => {
    const console = fleet.console()
    for (let n = 0; n < 20; n++) await view(console, `${LIST}&page=${n}`)
    fleet.substrate.resetCounts()
    await fleet.clock.advance(10_000)
    expect(fleet.substrate.counts.read).to.equal(5)
    for (const viewer of viewers) await viewer.leave()
    await fleet.clock.settle()
    fleet.substrate.resetCounts()
    await fleet.clock.advance(60_000)
    expect(fleet.substrate.counts.roundTrips).to.equal(0)
  })

  it('show a release of the one lease on screen before the next read is due', async () => {
    const viewer = await view(fleet.console({ pollEvery: { minutes: 10 } }), ONE)
    expect(viewer.states.at(-1)?.row?.holder).to.equal('worker-1')
    await fleet.workers.release('invoices', 'worker-1')
    await fleet.clock.settle()
    expect(viewer.states.at(-1)?.row).to.deep.equal({ lease: 'invoices', pinnedBy: [], waiting: 0 })
  })

  it('show an action of this console at once', async () => {
    const console = fleet.console({ pollEvery: { minutes: 10 }, readOnly: false, authorize: () => true })
    const viewer = await view(console, LIST)
    const body = JSON.stringify({ namespace: 'billing', lease: 'invoices', fencingToken: '1', confirm: 'invoices' })
    const headers = { 'content-type': 'application/json', 'x-lease-console': '1' }
    expect((await console(new Request(`${ORIGIN}/api/revoke`, { method: 'POST', headers, body }))).status).to.equal(200)
    await fleet.clock.settle()
    await fleet.clock.advance(1)
    expect(holdersIn(viewer.states.at(-1))).to.deep.equal([])
  })

  it('have a heartbeat every 15 seconds, for proxies', async () => {
    const viewer = await view(fleet.console(), LIST)
    await fleet.clock.advance(14_999)
    expect(viewer.comments).to.have.length(0)
    await fleet.clock.advance(30_001)
    expect(viewer.comments).to.deep.equal([': heartbeat', ': heartbeat', ': heartbeat'])
  })

  it('end after five minutes, so that the viewer is authorized anew', async () => {
    const viewer = await view(fleet.console(), LIST)
    await fleet.clock.advance(299_999)
    expect(viewer.isOver).to.equal(false)
    await fleet.clock.advance(1)
    expect(viewer.isOver).to.equal(true)
    fleet.substrate.resetCounts()
    await fleet.clock.advance(60_000)
    expect(fleet.substrate.counts.roundTrips).to.equal(0)
  })

  it('reach a slow viewer as the latest state alone', async () => {
    const console = fleet.console()
    const response = await console(new Request(`${ORIGIN}/events?${LIST}`))
    for (let n = 0; n < 50; n++) {
      await fleet.claim(`payouts-${n}`, 'worker-2', 600_000)
      await fleet.clock.advance(2_000)
    }
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    const decoder = new TextDecoder()
    let chunks = 0
    let text = ''
    while (!text.includes('payouts-49')) {
      const { value } = await reader.read()
      text += decoder.decode(value)
      chunks++
    }
    await reader.cancel()
    expect(chunks).to.be.lessThan(25)
  })

  it('end when the console is closed, and every later request gets 503', async () => {
    const console = fleet.console()
    const viewer = await view(console, LIST)
    await console.close()
    await console.close()
    await until('the end of the events', () => viewer.isOver)
    expect((await get(console, '/api/leases?namespace=billing')).status).to.equal(503)
  })

  describe('while the store is away', () => {
    it('keep the last state, say its age and what is wrong, and go on when the store is back', async () => {
      const console = fleet.console()
      const viewer = await view(console, LIST)
      await fleet.claim('payouts', 'worker-2', 600_000)
      fleet.substrate.reject(new Error('connect ECONNREFUSED redis://ops:hunter2@10.0.0.7:6379'))
      await fleet.clock.advance(20_000)
      expect(viewer.last?.trouble).to.include('ECONNREFUSED')
      expect(JSON.stringify(viewer.events)).not.to.include('hunter2')
      expect((viewer.last?.nowMs ?? 0) - (viewer.last?.readMs ?? 0)).to.be.at.least(15_000)
      expect(holdersIn(viewer.states.at(-1))).to.deep.equal(['worker-1'])
      fleet.substrate.heal()
      await fleet.clock.advance(30_000)
      expect(viewer.last).not.to.have.property('trouble')
      expect(holdersIn(viewer.states.at(-1))).to.deep.equal(['worker-1', 'worker-2'])
    })

    it('a reload gets the page, the last state and what is wrong', async () => {
      const console = fleet.console()
      const viewer = await view(console, LIST)
      await viewer.leave()
      fleet.substrate.reject(new Error('connect ECONNREFUSED'))
      await fleet.clock.advance(60_000)
      expect((await console(new Request(ORIGIN))).status).to.equal(200)
      const { status, body } = await fleet.clock.drive(get(console, `/api/leases?${LIST}`))
      expect(status).to.equal(200)
      expect(holdersIn(body)).to.deep.equal(['worker-1'])
      expect(body.trouble).to.be.a('string')
      const reloaded = await view(console, LIST)
      expect(holdersIn(reloaded.states[0])).to.deep.equal(['worker-1'])
    })

    it('a store that answers nothing is trouble after three seconds, also before the first answer', async () => {
      fleet.substrate.hang()
      const console = fleet.console()
      const asked = get(console, `/api/leases?${LIST}`)
      await fleet.clock.settle()
      await fleet.clock.advance(3_000)
      const { status, body, headers } = await asked
      expect(status).to.equal(503)
      expect(headers.get('retry-after')).to.equal('2')
      expect(body.error).to.include('the store has not answered yet')
      const viewer = await view(console, LIST)
      fleet.substrate.heal()
      await fleet.clock.advance(10_000)
      expect(holdersIn(viewer.states.at(-1))).to.deep.equal(['worker-1'])
    })

    it('/health says that the process is well, and /health/complete that the store is not', async () => {
      const console = fleet.console()
      expect((await get(console, '/health/complete')).body).to.deep.include({ status: 'ok' })
      fleet.substrate.reject(new Error('connect ECONNREFUSED'))
      expect((await get(console, '/health')).body).to.deep.equal({ status: 'ok' })
      const { status, body } = await fleet.clock.drive(get(console, '/health/complete'))
      expect(status).to.equal(503)
      expect(body).to.deep.include({ status: 'unreachable' })
      expect(JSON.stringify(body)).to.include('"billing":{"status":"unreachable"')
    })
  })
})
