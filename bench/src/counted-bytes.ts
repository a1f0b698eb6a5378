import { Socket } from 'node:net'

/** Counts what this process reads from and writes to the sockets that it connects from now on. */
export function countedBytes(): () => number {
  const open = new Set<Socket>()
  let over = 0
  const bytesOf = ({ bytesRead, bytesWritten }: Socket): number => bytesRead + bytesWritten
  const connect = Socket.prototype.connect as (this: Socket, ...args: unknown[]) => Socket
  Socket.prototype.connect = function (this: Socket, ...args: unknown[]): Socket {
    if (!open.has(this)) {
      open.add(this)
      this.once('close', () => {
        open.delete(this)
        over += bytesOf(this)
      })
    }
    return connect.apply(this, args)
  } as typeof connect
  return () => {
    let bytes = over
    for (const socket of open) bytes += bytesOf(socket)
    return bytes
  }
}
