/** A process full of proxies, so that their event loop is not the judge's: see proxies.ts. */
import { opaqueProtocol, type Proxy, startProxy } from 'lease-servers'
import type { Order, Reply } from './proxies.ts'

process.once('disconnect', () => process.exit(0))

const proxies = new Map<number, Proxy>()

async function obey(order: Order): Promise<Reply['value']> {
  if (order.call === 'open') {
    const { url } = order
    const proxy = await (order.isOpaque ? startProxy(Number(new URL(url).port), opaqueProtocol) : startProxy(url))
    proxies.set(order.proxy, proxy)
    return proxy.port
  }
  const proxy = proxies.get(order.proxy)
  if (proxy === undefined) return undefined // closed with its worker, in the middle of a fault
  if (order.call === 'impair') return proxy.impair(order.impairment)
  if (order.call === 'mend') return proxy.mend(order.impairment)
  if (order.call === 'cut') return proxy.cut(order.some)
  if (order.call === 'counters') return proxy.counters
  if (order.call === 'close') proxies.delete(order.proxy)
  return proxy[order.call]()
}

process.on('message', (message) => {
  const order = message as Order
  obey(order).then(
    (value) => process.send?.({ id: order.id, value } satisfies Reply),
    (error: unknown) => process.send?.({ id: order.id, error: String(error) } satisfies Reply),
  )
})
