/**
 * Ends the connections of closed channels.
 *
 * etcd3 closes its channels after a failed call and opens new ones. grpc-js 1.14 leaves a connection open for as long as the process runs when
 *
 * 1. the channel was closed while it waited to connect again: it connects once more, and nobody uses that connection;
 * 2. the channel was closed while it connected, and the server accepts but says nothing;
 * 3. the server does not answer the end of a connection;
 * 4. the channel was closed in the turn of the event loop in which it asked for the address of the server, as it does after each failed
 *    attempt: when the address comes, it connects.
 *
 * Each outage would leave some of them behind, and a silent server one for each call. A connection is made by the credentials of its channel,
 * which learn when the channel is closed. So they refuse 1, and end 2 and 3. For 4 a channel
 * is closed once more when the address has come. Where grpc-js has no such credentials, nothing is changed.
 */
import type { Duplex } from 'node:stream'
import { systemClock } from 'lease-core'

/** What makes the connections of one channel to one address. */
interface Connector {
  waitForReady(): Promise<void>
  connect(tcp: Duplex): Promise<{ readonly socket: Duplex }>
  /** Is asked for each call that is sent on the connection. */
  getCallCredentials(): unknown
  /** The channel is closed. */
  destroy(): void
}

const CREATE = '_createSecureConnector'

interface Credentials {
  [CREATE]?(...of: readonly unknown[]): Connector
}

/** A call of grpc-js before it is sent: before its channel connects for the first time. */
interface Invocation {
  readonly channel?: Channel
}

interface Channel {
  close(): void
  readonly internalChannel?: { readonly credentials?: Credentials }
}

/** How long a server has to hang up as well, when all calls of a connection are over. */
const HANG_UP_MS = 1_000

const knownChannels = new WeakSet<Channel>()
const known = new WeakSet<Credentials>()

/** For the option `callInvocationTransformer` of grpc-js: ends the connections of this call's channel with it. */
export function endsWithChannel<Call extends Invocation>(call: Call): Call {
  const { channel } = call
  if (channel === undefined || knownChannels.has(channel)) return call
  knownChannels.add(channel)
  closeTwice(channel)
  const credentials = channel.internalChannel?.credentials
  if (credentials === undefined || known.has(credentials)) return call
  known.add(credentials)
  const create = credentials[CREATE]?.bind(credentials)
  if (create !== undefined) credentials[CREATE] = (...of) => ending(create(...of))
  return call
}

function closeTwice(channel: Channel): void {
  const close = channel.close.bind(channel)
  channel.close = () => {
    close()
    // An address comes in the check phase of the event loop. That phase lies between a timer and another one that it sets.
    systemClock.setTimer(0, () => systemClock.setTimer(0, close))
  }
}

function ending(connector: Connector): Connector {
  let isClosed = false
  /** No call was sent on it. */
  let unused: Duplex | undefined
  const refuseWhenClosed = (): void => {
    if (isClosed) throw new Error('the channel was closed')
  }
  return {
    async waitForReady() {
      refuseWhenClosed()
      await connector.waitForReady()
    },
    async connect(tcp) {
      refuseWhenClosed()
      unused = tcp
      const connected = await connector.connect(tcp)
      const { socket } = connected
      socket.once('finish', () => {
        const timer = systemClock.setTimer(HANG_UP_MS, () => socket.destroy())
        socket.once('close', () => timer.cancel())
      })
      return connected
    },
    getCallCredentials() {
      unused = undefined
      return connector.getCallCredentials()
    },
    destroy() {
      isClosed = true
      unused?.destroy()
      connector.destroy()
    },
  }
}
