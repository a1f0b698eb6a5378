/** A network that was cut for a while: what was written before the cut arrives afterwards, though its sender has hung up. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

interface Link {
  readonly client: Socket
  readonly server: Socket
  /** What has not been delivered to the server. */
  readonly kept: Buffer[]
  stalled: boolean
}

export interface StallingProxy extends AsyncDisposable {
  readonly url: string
  /** The connections that there are deliver nothing any more. New ones do. */
  stall(): void
  /** Delivers what was written to stalled connections. Answers to those who have hung up are lost. */
  deliver(): void
}

export async function startStallingProxy(target: string): Promise<StallingProxy> {
  const { hostname, port } = new URL(target)
  const links = new Set<Link>()
  const drop = (link: Link): void => {
    if (link.stalled) return
    links.delete(link)
    link.client.destroy()
    link.server.destroy()
  }
  const listener = createServer((client) => {
    const server = connect({ host: hostname, port: Number(port), noDelay: true })
    const link: Link = { client, server, kept: [], stalled: false }
    links.add(link)
    client.on('data', (bytes) => (link.stalled ? link.kept.push(bytes) : server.write(bytes)))
    server.on('data', (bytes) => !link.stalled && client.writable && client.write(bytes))
    for (const end of [client, server]) end.on('error', () => {}).on('close', () => drop(link))
  })
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  return {
    url: `redis://127.0.0.1:${(listener.address() as AddressInfo).port}`,
    stall() {
      for (const link of links) link.stalled = true
    },
    deliver() {
      for (const link of links) for (const bytes of link.kept.splice(0)) link.server.write(bytes)
    },
    async [Symbol.asyncDispose]() {
      for (const link of links) {
        link.stalled = false
        drop(link)
      }
      await new Promise((resolve) => listener.close(resolve))
    },
  }
}
