/** A server that was silent for seconds answers again: how soon it is found, beside a bare connection opened at that moment. */
import { expect } from 'chai'
import { Manager, type Client } from 'lease-core'
import { enoughOf, type Proxy } from 'lease-servers'
import { it } from 'mocha'
import { countRenewals } from './outages.ts'
import { unheard } from './unheard.ts'
import { eventually, sleep, unique } from './words.ts'

/** How a Manager reaches servers that fall silent together. */
export interface SilentWay {
  /** One before each server. */
  readonly proxies: readonly Proxy[]
  /** A client that listens to nothing: no hint shows it that the server answers again. */
  readonly open: (namespace: string) => Client
  /** Opens a connection of its own past the proxy, asks something, and closes it: what no client can beat. */
  readonly bare: () => Promise<unknown>
}

interface Healing {
  readonly begin: (proxy: Proxy) => void
  readonly end: (proxy: Proxy) => void
}

/** What becomes of the connections that were open while the server was silent. */
const healings: Readonly<Record<string, Healing>> = {
  'and cuts its connections': { begin: (proxy) => proxy.pause(), end: (proxy) => proxy.resume() },
  'and answers what it was asked meanwhile': { begin: (proxy) => proxy.hold(), end: (proxy) => proxy.resume() },
}
const keepingSilence: Readonly<Record<string, Healing>> = {
  'on new connections only': { begin: (proxy) => proxy.pause(), end: (proxy) => proxy.silence() },
}

/** The longest pause between two attempts (`backoff.ts` of lease-core, docs/reliability.md). */
const LONGEST_PAUSE_MS = 1_000
/** Longer than the time-outs of requests: some are given up, and sent again. */
const SILENT_MS = 4_000

/** Declares the scenes; `onNewConnections`: also where the connections of before stay silent for good. */
export function foundAgain(
  way: () => SilentWay,
  { onNewConnections = false }: { readonly onNewConnections?: boolean } = {},
): void {
  const scenes = { ...healings, ...(onNewConnections ? keepingSilence : {}) }
  for (const [words, healing] of enoughOf(Object.entries(scenes))) {
    it(`a server that answers again ${words} is found within the longest pause after a bare connection`, async () => {
      // A round in which the machine stalled says nothing: the next one may.
      while (!(await isFoundInTime(way(), healing, words)));
    })
  }
}

async function isFoundInTime({ proxies, open, bare }: SilentWay, healing: Healing, words: string): Promise<boolean> {
  const client = open(unique('silent'))
  const answered = countRenewals(client)
  const manager = new Manager({ client })
  try {
    let found: Readonly<Record<string, number>> = {}
    const reasons = await unheard(async () => {
      const kept = await manager.hold('kept', 'a', { duration: 600_000, renewEvery: 500, wait: true })
      await eventually(() => answered('kept') > 0)
      for (const proxy of proxies) healing.begin(proxy)
      let granted = false
      const waiting = manager.hold('waited', 'b', { duration: 600_000, wait: true }).then(async (hold) => {
        granted = true
        return hold
      })
      await sleep(SILENT_MS + Math.random() * LONGEST_PAUSE_MS)
      expect(granted).to.equal(false)
      const renewed = answered('kept')

      const startedMs = performance.now()
      const passedMs = (): number => Math.round(performance.now() - startedMs)
      for (const proxy of proxies) healing.end(proxy)
      const [controlMs, holdMs, renewalMs] = await Promise.all([
        bare().then(passedMs),
        waiting.then(passedMs),
        eventually(() => answered('kept') > renewed).then(passedMs),
      ])
      expect(kept.held).to.equal(true)
      found = { controlMs, holdMs, renewalMs }
    })
    expect(reasons).to.deep.equal([])
    if (process.env['LEASE_TEST_FIGURES']) console.log(words, found)
    const { controlMs = 0, holdMs = 0, renewalMs = 0 } = found
    return Math.max(holdMs, renewalMs) - controlMs <= LONGEST_PAUSE_MS
  } finally {
    for (const proxy of proxies) proxy.resume()
    await manager.stop()
    await client.close()
  }
}
