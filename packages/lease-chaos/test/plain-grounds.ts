/** Grounds of one server, with a proxy for each worker in this process, and the two nemeses that any ground has. */
import { setTimeout as pass } from 'node:timers/promises'
import { startPostgres, startProxy, startRedis, type Proxy } from 'lease-servers'
import type { Battle, Ground, Nemesis, Reach } from 'lease-chaos'

const none: Nemesis = {
  name: 'none',
  isControl: false,
  async strike({ signal }) {
    await pass(300, undefined, { signal }).catch(() => {})
  },
}

const stopShort: Nemesis = {
  name: 'stop-short',
  isControl: false,
  async strike({ workers, random, signal }: Battle) {
    const stopped = workers.filter(() => random() < 0.5)
    for (const worker of stopped) worker.pause()
    await pass(40 + random() * 600, undefined, { signal }).catch(() => {})
    for (const worker of stopped) worker.resume()
  },
}

const killWorker: Nemesis = {
  name: 'kill-worker',
  isControl: false,
  async strike({ workers, random, startWorker }: Battle) {
    workers[Math.floor(random() * workers.length)]?.kill()
    await startWorker()
  },
}

export async function plainGround(kind: 'redis' | 'postgres', namespace: string): Promise<Ground> {
  const server = await (kind === 'redis' ? startRedis() : startPostgres())
  const proxies: Proxy[] = []
  const judge: Reach = { kind, url: server.url, namespace }
  return {
    name: kind,
    nemeses: [none, stopShort, killWorker],
    judge,
    async reach() {
      const proxy = await startProxy(server.url)
      proxies.push(proxy)
      return { ...judge, url: proxy.url(server.url) }
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(proxies.map((proxy) => proxy.close()))
      await server[Symbol.asyncDispose]()
    },
  }
}
