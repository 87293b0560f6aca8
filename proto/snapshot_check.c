#include "proto/snapshot_check.h"
#include "common/fault.h"
#include "common/span.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Constants and layouts of LMDB 0.9's mdb.c: MDB_page, MDB_meta, MDB_db, MDB_node on a 64-bit little-endian machine. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && sizeof(size_t) == 8, "the layout below");

#define META_MAGIC        0xBEEFC0DEu
#define META_VERSION      1u
#define META_BYTES        136u
#define PAGE_HEADER_BYTES 16u
#define PAGE_BYTES_LEAST  512u
#define PAGE_BYTES_MOST   32768u /* MAX_PAGESIZE is 0x8000 in LMDB: offsets are 16 bits */
#define PAGE_BRANCH       0x01u
#define PAGE_LEAF         0x02u
#define PAGE_OVERFLOW     0x04u
#define PAGE_META         0x08u
#define PAGE_DIRTY        0x10u
#define NODE_HEADER_BYTES 8u
#define NODE_BIG          0x01u /* the data stand on overflow pages */
#define NODE_TREE         0x02u /* the data are another tree's root record */
#define TREE_RECORD_BYTES 48u
#define TREE_INTEGER_KEYS 0x08u
#define TREE_DEPTH_MOST   32u /* CURSOR_STACK */
#define PAGE_NONE         UINT64_MAX
#define KEY_BYTES_MOST    511u

struct tree {
    uint32_t pad; /* of the first tree in a meta page: the page size */
    uint16_t flags, depth;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries, root;
};
_Static_assert(sizeof(struct tree) == TREE_RECORD_BYTES, "MDB_db");

struct meta {
    uint32_t magic, version;
    uint64_t address, map_bytes;
    struct tree free, main;
    uint64_t last_page, txn_id;
};
_Static_assert(sizeof(struct meta) == META_BYTES, "MDB_meta");

struct page_header {
    uint64_t number;
    uint16_t pad, flags;
    union {
        struct {
            uint16_t lower, upper;
        };
        uint32_t overflow_pages;
    };
};
_Static_assert(sizeof(struct page_header) == PAGE_HEADER_BYTES, "MDB_page");

struct node {
    uint16_t low, high, flags,
        key_bytes; /* branch: page number in the first three; leaf: data bytes in the first two */
};

enum tree_role { ROLE_FREE, ROLE_MAIN, ROLE_NAMED };

struct check {
    const char *map;
    uint64_t file_pages; /* whole ones */
    uint64_t last_page;
    size_t page_bytes;
    uint8_t *seen; /* one bit a page */
};

/* -- meta pages -- */

static enum err read_meta(int fd, uint64_t offset, struct meta *ret)
{
    char bytes[PAGE_HEADER_BYTES + META_BYTES];
    ssize_t got = pread(fd, bytes, sizeof bytes, (off_t)offset);
    if (got < 0)
        return ERR_IO;
    if (got == 0 && offset == 0)
        return ERR_NOT_FOUND;
    if ((size_t)got < sizeof bytes)
        return ERR_CORRUPT;
    struct page_header header;
    memcpy(&header, bytes, sizeof header);
    memcpy(ret, bytes + sizeof header, sizeof *ret);
    if (!(header.flags & PAGE_META) || ret->magic != META_MAGIC)
        return ERR_CORRUPT;
    return ret->version == META_VERSION ? OK : ERR_UNSUPPORTED;
}

static bool meta_sensible(const struct meta *meta, uint64_t map_bytes)
{
    uint32_t page_bytes = meta->free.pad;
    return page_bytes >= PAGE_BYTES_LEAST && page_bytes <= PAGE_BYTES_MOST && (page_bytes & (page_bytes - 1)) == 0 &&
           meta->address == 0 && meta->free.flags == TREE_INTEGER_KEYS && meta->main.flags == 0 &&
           meta->last_page >= 1 && meta->last_page < map_bytes / page_bytes;
}

static enum err check_metas_once(int fd, uint64_t map_bytes)
{
    struct meta metas[2];
    enum err err = read_meta(fd, 0, &metas[0]);
    if (err)
        return err;
    if (!meta_sensible(&metas[0], map_bytes))
        return ERR_CORRUPT;
    err = read_meta(fd, metas[0].free.pad, &metas[1]);
    if (err)
        return err;
    if (!meta_sensible(&metas[1], map_bytes) || metas[1].free.pad != metas[0].free.pad)
        return ERR_CORRUPT;
    /* A transaction writes the meta page of its number's parity, so the two are neighbours, or both 0 in a new file. */
    uint64_t a = metas[0].txn_id, b = metas[1].txn_id;
    bool fresh = a == 0 && b == 0;
    bool neighbours = (a & 1) == 0 && (b & 1) == 1 && (a == b + 1 || b == a + 1);
    return fresh || neighbours ? OK : ERR_CORRUPT;
}

enum err snapshot_check_metas(int fd, uint64_t map_bytes)
{
    /* Nothing keeps a live writer from writing a meta page under our hands: look again before calling it broken. */
    enum err err = OK;
    for (unsigned tries = 0; tries < 20; tries++) {
        err = check_metas_once(fd, map_bytes);
        if (err != ERR_CORRUPT)
            return err;
    }
    return err;
}

/* -- pages -- */

/* Marks count pages from number as used. False: outside of the file, or used already. */
static bool claim_pages(struct check *c, uint64_t number, uint64_t count, bool in_file)
{
    uint64_t end;
    if (number < 2 || count == 0 || __builtin_add_overflow(number, count, &end) || end > c->last_page + 1)
        return false;
    if (in_file && end > c->file_pages)
        return false;
    for (uint64_t i = number; i < end; i++) {
        uint8_t bit = (uint8_t)(1u << (i & 7));
        if (c->seen[i >> 3] & bit)
            return false;
        c->seen[i >> 3] |= bit;
    }
    return true;
}

static const char *page_at(const struct check *c, uint64_t number, struct page_header *ret)
{
    const char *page = c->map + number * c->page_bytes;
    memcpy(ret, page, sizeof *ret);
    ret->flags &= (uint16_t)~PAGE_DIRTY;
    return page;
}

/* A record of the free list: count, then page numbers in descending order. The pages need not be in the file: a page
 * that was allocated and given up in one transaction is never written. */
static bool check_free_list(struct check *c, struct span data)
{
    uint64_t count, previous = PAGE_NONE;
    if (data.len < sizeof count)
        return false;
    memcpy(&count, data.ptr, sizeof count);
    if (count > (data.len - sizeof count) / sizeof count)
        return false;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page;
        memcpy(&page, data.ptr + sizeof page * (i + 1), sizeof page);
        if (page >= previous || !claim_pages(c, page, 1, false))
            return false;
        previous = page;
    }
    return true;
}

static bool check_tree(struct check *c, const struct tree *tree, enum tree_role role);

static bool check_leaf_data(struct check *c, const struct node *node, struct span data, enum tree_role role,
                            struct tree *counted)
{
    uint64_t bytes = (uint64_t)node->low | (uint64_t)node->high << 16;
    if (node->flags & NODE_BIG) {
        uint64_t number, pages = (PAGE_HEADER_BYTES + bytes + c->page_bytes - 1) / c->page_bytes;
        memcpy(&number, data.ptr, sizeof number);
        if (!claim_pages(c, number, pages, true))
            return false;
        struct page_header header;
        const char *page = page_at(c, number, &header);
        if (header.number != number || header.flags != PAGE_OVERFLOW || header.overflow_pages != pages)
            return false;
        counted->overflow_pages += pages;
        data = span_of(page + PAGE_HEADER_BYTES, bytes);
    }
    if (role == ROLE_FREE)
        return check_free_list(c, data);
    if (role != ROLE_MAIN)
        return node->flags == 0 || node->flags == NODE_BIG;
    struct tree named;
    if (node->flags != NODE_TREE || data.len != sizeof named)
        return false;
    memcpy(&named, data.ptr, sizeof named);
    return named.flags == 0 && check_tree(c, &named, ROLE_NAMED);
}

static bool keys_ascend(struct span before, struct span key, enum tree_role role)
{
    if (role != ROLE_FREE)
        return span_cmp(before, key) < 0;
    uint64_t a, b;
    memcpy(&a, before.ptr, sizeof a);
    memcpy(&b, key.ptr, sizeof b);
    return a < b;
}

/* The node's key and (in a leaf) what stands behind it. False when any of it is outside of the page. */
static bool node_parts(const struct check *c, const char *page, const struct page_header *header, unsigned index,
                       struct node *ret_node, struct span *ret_key, struct span *ret_data)
{
    uint16_t offset;
    memcpy(&offset, page + PAGE_HEADER_BYTES + 2 * index, sizeof offset);
    if (offset < header->upper || (offset & 1) || offset + NODE_HEADER_BYTES > c->page_bytes)
        return false;
    memcpy(ret_node, page + offset, sizeof *ret_node);
    size_t room = c->page_bytes - offset - NODE_HEADER_BYTES, bytes = 0;
    if (header->flags == PAGE_LEAF) {
        bytes = (ret_node->flags & NODE_BIG) ? sizeof(uint64_t) : (size_t)ret_node->low | (size_t)ret_node->high << 16;
        if (ret_node->key_bytes == 0)
            return false;
    }
    if (ret_node->key_bytes > KEY_BYTES_MOST || ret_node->key_bytes > room || bytes > room - ret_node->key_bytes)
        return false;
    *ret_key = span_of(page + offset + NODE_HEADER_BYTES, ret_node->key_bytes);
    *ret_data = span_of(ret_key->ptr + ret_key->len, bytes);
    return true;
}

/* depth: of this page, 1 for leaves. */
static bool check_page(struct check *c, uint64_t number, unsigned depth, enum tree_role role, struct tree *counted)
{
    struct page_header header;
    if (!claim_pages(c, number, 1, true))
        return false;
    const char *page = page_at(c, number, &header);
    bool leaf = depth == 1;
    if (header.number != number || header.flags != (leaf ? PAGE_LEAF : PAGE_BRANCH) ||
        header.lower < PAGE_HEADER_BYTES || header.lower > header.upper || header.upper > c->page_bytes ||
        (header.lower & 1))
        return false;
    unsigned nodes = (header.lower - PAGE_HEADER_BYTES) / 2;
    if (nodes < (leaf ? 1u : 2u))
        return false;
    *(leaf ? &counted->leaf_pages : &counted->branch_pages) += 1;
    struct span before = { 0 };
    for (unsigned i = 0; i < nodes; i++) {
        struct node node;
        struct span key, data;
        if (!node_parts(c, page, &header, i, &node, &key, &data))
            return false;
        bool keyed = leaf || i > 0; /* the first key of a branch is not looked at */
        if (keyed && role == ROLE_FREE && key.len != sizeof(uint64_t))
            return false;
        if (keyed && before.ptr && !keys_ascend(before, key, role))
            return false;
        if (keyed)
            before = key;
        uint64_t child = (uint64_t)node.low | (uint64_t)node.high << 16 | (uint64_t)node.flags << 32;
        if (leaf ? !check_leaf_data(c, &node, data, role, counted) : !check_page(c, child, depth - 1, role, counted))
            return false;
        counted->entries += leaf;
    }
    return true;
}

static bool check_tree(struct check *c, const struct tree *tree, enum tree_role role)
{
    struct tree counted = { 0 };
    if (tree->depth > TREE_DEPTH_MOST || (tree->root == PAGE_NONE) != (tree->depth == 0))
        return false;
    if (tree->depth > 0 && !check_page(c, tree->root, tree->depth, role, &counted))
        return false;
    return counted.entries == tree->entries && counted.leaf_pages == tree->leaf_pages &&
           counted.branch_pages == tree->branch_pages && counted.overflow_pages == tree->overflow_pages;
}

enum err snapshot_check_trees(int fd, uint64_t txn_id)
{
    struct meta meta, first;
    enum err err = read_meta(fd, 0, &first);
    if (!err)
        err = read_meta(fd, (txn_id & 1) ? first.free.pad : 0, &meta);
    if (err)
        return err == ERR_IO ? err : ERR_CORRUPT;
    if (meta.txn_id != txn_id)
        return ERR_AGAIN;
    struct stat status;
    if (fstat(fd, &status) != 0)
        return ERR_IO;
    struct check c = { .page_bytes = meta.free.pad, .last_page = meta.last_page };
    c.file_pages = (uint64_t)status.st_size / c.page_bytes;
    c.seen = fault_calloc(1, meta.last_page / 8 + 1);
    if (!c.seen)
        return ERR_NOMEM;
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        err = ERR_NOMEM;
        goto out;
    }
    c.map = map;
    if (!check_tree(&c, &meta.free, ROLE_FREE) || !check_tree(&c, &meta.main, ROLE_MAIN))
        err = ERR_CORRUPT;
    (void)munmap(map, (size_t)status.st_size);
out:
    free(c.seen);
    return err;
}
